"""Everything that one client (an explainer or a judge) is told."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pie_jax.errors import InputError


@dataclass(frozen=True)
class Prices:
    """Money per million tokens; discounts for cached prompts are ignored, so costs are bounds."""

    prompt: float
    completion: float

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return the price of a call."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


@dataclass(frozen=True)
class LLMConfig:
    """A server, a model and the limits to keep; the key itself is never part of it.

    The budgets `max_calls`, `max_tokens_budget` and `max_cost` bound what all calls recorded in
    the store's file have taken together, so that a rerun cannot spend them again. `rpm` and `tpm`
    hold within any minute of one client. `api_key_env` names an environment variable; an empty
    name, or an unset variable, sends no key. `temperature` and `seed` of None are not sent.
    """

    base_url: str
    model: str
    api_key_env: str = "OPENAI_API_KEY"
    concurrency: int = 8
    rpm: int | None = None
    tpm: int | None = None
    max_calls: int | None = None
    max_tokens_budget: int | None = None
    max_cost: float | None = None
    prices: Prices | None = None
    timeout: float = 120.0
    temperature: float | None = 0.0
    max_output_tokens: int = 2048
    seed: int | None = None
    max_attempts: int = 8
    backoff_base: float = 1.0
    backoff_cap: float = 60.0
    max_wait: float = 600.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "base_url", _checked_url(self.base_url))
        if not self.model.strip():
            raise InputError("llm model: no name was given; name a model of the server.")
        for name in ("concurrency", "max_output_tokens", "max_attempts"):
            self._check(name, minimum=1)
        for name in ("rpm", "tpm"):
            self._check(name, minimum=1, optional=True)
        for name in ("max_calls", "max_tokens_budget", "max_cost"):
            self._check(name, minimum=0, optional=True)
        for name in ("backoff_base", "backoff_cap", "max_wait"):
            self._check(name, minimum=0)
        self._check("temperature", minimum=0, optional=True)
        self._check("timeout", minimum=0.001)
        self._check_prices()

    def _check(self, name: str, *, minimum: float, optional: bool = False) -> None:
        value: Any = getattr(self, name)
        if value is None and optional:
            return
        if value is None or not math.isfinite(value) or value < minimum:
            raise InputError(f"llm {name} is {value}; give a number of at least {minimum}.")

    def _check_prices(self) -> None:
        if self.max_cost is not None and self.prices is None:
            raise InputError(
                "llm max_cost needs prices; give those of a million prompt and completion tokens."
            )
        if self.prices is not None:
            for price in (self.prices.prompt, self.prices.completion):
                if not math.isfinite(price) or price < 0:
                    raise InputError(f"llm price is {price}; give a number of at least 0.")

    @property
    def url(self) -> str:
        """The address that requests go to."""
        return f"{self.base_url}/chat/completions"

    @property
    def is_loopback(self) -> bool:
        """Whether the server is on this machine."""
        host = urlsplit(self.base_url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost" or host.endswith(".localhost")

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """Return the price of a call, None without prices."""
        return self.prices.cost(prompt_tokens, completion_tokens) if self.prices else None


def _checked_url(base_url: str) -> str:
    """Return the URL without a final slash; refuse what is none or could hold a secret."""
    try:
        parts = urlsplit(base_url.strip())
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise InputError("llm base URL cannot be read; give one like http://host/v1.") from None
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        # It is not shown: what stands there may be a key.
        raise InputError(
            f"llm base URL of {host} holds a user, a query or a fragment; give the plain URL, and "
            "the key in the environment."
        )
    if parts.scheme not in ("http", "https") or not host:
        raise InputError(f"llm base URL `{base_url}` is none; give one like http://host/v1.")
    return base_url.strip().rstrip("/").removesuffix("/chat/completions").rstrip("/")
