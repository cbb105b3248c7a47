"""Explainer and judge: two clients that may differ in server, model and price."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pie_jax.errors import InputError
from pie_jax.llm.config import LLMConfig, Prices

LLM, PATTERNS = "llm", "patterns"


@dataclass(frozen=True)
class Roles:
    """Names of an explainer and a judge, with the config of each one that is an LLM."""

    explainer: str = PATTERNS
    judge: str = PATTERNS
    explainer_config: LLMConfig | None = None
    judge_config: LLMConfig | None = None


def make_roles(
    *,
    explainer: str | None = None,
    judge: str | None = None,
    base_url: str | None = None,
    judge_base_url: str | None = None,
    explainer_model: str | None = None,
    judge_model: str | None = None,
    prices: Prices | None = None,
    judge_prices: Prices | None = None,
    **limits: Any,
) -> Roles:
    """Return an explainer and a judge; `limits` are further fields of `LLMConfig` for both.

    Without a base URL both are `patterns`, with one both are `llm`. The judge's server, model and
    prices are the explainer's unless given. Raises `InputError` if something is missing.
    """
    judge_url = judge_base_url or base_url
    explainer = explainer or (LLM if base_url else PATTERNS)
    judge = judge or (LLM if judge_url else PATTERNS)
    for name, value in (("explainer", explainer), ("judge", judge)):
        if value not in (LLM, PATTERNS):
            raise InputError(f"--{name} `{value}` is not known; use one of {PATTERNS}, {LLM}.")
    return Roles(
        explainer,
        judge,
        _config("explainer", base_url, "--base-url", explainer_model, prices, limits)
        if explainer == LLM
        else None,
        _config(
            "judge",
            judge_url,
            "--judge-base-url",
            judge_model or explainer_model,
            judge_prices or prices,
            limits,
        )
        if judge == LLM
        else None,
    )


def _config(
    role: str,
    url: str | None,
    option: str,
    model: str | None,
    prices: Prices | None,
    limits: dict[str, Any],
) -> LLMConfig:
    if not url:
        raise InputError(f"--{role} llm needs a server; name one with {option}.")
    if not model:
        raise InputError(f"--{role} llm needs a model; name one with --{role}-model.")
    return LLMConfig(url, model, prices=prices, **limits)
