"""Options of the LLMs that explain and judge, for the commands that ask them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, get_type_hints

from pie_jax.cli.stages import stage_options as stage

if TYPE_CHECKING:
    from pie_jax.llm.roles import Roles


@dataclass(frozen=True)
class LLMOptions:
    """Which LLMs explain and judge, and what they may take; each field is an option."""

    explainer: stage.Explainer = None
    judge: stage.Judge = None
    base_url: stage.BaseUrl = None
    judge_base_url: stage.JudgeBaseUrl = None
    explainer_model: stage.ExplainerModel = None
    judge_model: stage.JudgeModel = None
    api_key_env: stage.ApiKeyEnv = "OPENAI_API_KEY"
    concurrency: stage.Concurrency = 8
    rpm: stage.Rpm = None
    tpm: stage.Tpm = None
    max_calls: stage.MaxCalls = None
    max_cost: stage.MaxCost = None
    max_output_tokens: stage.MaxOutputTokens = 2048
    timeout: stage.Timeout = 120.0
    prices: stage.PricesOption = None
    judge_prices: stage.JudgePrices = None

    def roles(self) -> Roles:
        """Return the explainer and the judge."""
        from pie_jax.llm.roles import make_roles

        read = {
            "prices": stage.prices(self.prices, "--prices"),
            "judge_prices": stage.prices(self.judge_prices, "--judge-prices"),
        }
        return make_roles(**{**asdict(self), **read})

    def judge_alone(self) -> Roles:
        """Return the judge, with patterns as the explainer: nothing is explained."""
        from pie_jax.llm.roles import make_roles

        asked = {
            "explainer": "patterns",
            "base_url": None,
            "explainer_model": None,
            "prices": None,
            "judge_base_url": self.judge_base_url or self.base_url,
            "judge_model": self.judge_model or self.explainer_model,
            "judge_prices": stage.prices(self.judge_prices or self.prices, "--prices"),
        }
        return make_roles(**{**asdict(self), **asked})


NO_LLM = LLMOptions()


def with_llm_options(*, explainer: bool = True) -> Callable[[Callable[..., None]], Any]:
    """Return a decorator that spells out a command's parameter `llm`, an option for each field;
    without `explainer`, for a command that only judges, all but that one."""
    fields = dict(inspect.signature(LLMOptions).parameters)
    if not explainer:
        del fields["explainer"]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def called(**given: Any) -> None:
            llm = LLMOptions(**{name: given.pop(name) for name in fields})
            command(**given, llm=llm)

        own = inspect.signature(command)
        hints = get_type_hints(command, include_extras=True)
        hints |= get_type_hints(LLMOptions, include_extras=True)
        parameters: list[inspect.Parameter] = []
        for name, parameter in own.parameters.items():
            parameters += fields.values() if name == "llm" else [parameter]
        keyword = inspect.Parameter.KEYWORD_ONLY
        shown = [one.replace(annotation=hints[one.name], kind=keyword) for one in parameters]
        called.__signature__ = own.replace(parameters=shown)  # type: ignore[attr-defined]
        called.__annotations__ = {one.name: one.annotation for one in shown} | {"return": None}
        return called

    return decorate
