"""Calls, tokens and cost of a stage, estimated before anything is sent."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pie_jax.llm.config import LLMConfig
from pie_jax.llm.request import Request
from pie_jax.llm.store.cache import LLMStore
from pie_jax.llm.tokens import prompt_tokens


@dataclass(frozen=True)
class Estimate:
    """Calls to make, and calls that are stored already; tokens are approximate.

    `completion_tokens` and `cost` (None without prices) assume that every answer is as long as it
    may be. Retries are free where the server charges none; a repair attempt or a question asked
    once more comes on top.
    """

    calls: int = 0
    stored: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = 0.0

    @classmethod
    def of_calls(
        cls, config: LLMConfig, calls: int, prompt_tokens: int, output_limit: int | None = None
    ) -> Estimate:
        """Return what calls would take whose prompts are not known yet, only their mean tokens."""
        prompt, output = calls * prompt_tokens, calls * (output_limit or config.max_output_tokens)
        return cls(calls, 0, prompt, output, config.cost(prompt, output))

    def __add__(self, other: Estimate) -> Estimate:
        costs = (self.cost, other.cost)
        return Estimate(
            self.calls + other.calls,
            self.stored + other.stored,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            None if None in costs else sum(cost for cost in costs if cost is not None),
        )

    def __str__(self) -> str:
        cost = "" if self.cost is None else f", at most {self.cost:.2f} in money"
        return (
            f"{self.calls} calls ({self.stored} more are stored): about {self.prompt_tokens} "
            f"prompt tokens, at most {self.completion_tokens} completion tokens{cost} "
            "(4 characters a token; repairs not counted)"
        )


def estimate(
    requests: Iterable[Request], config: LLMConfig, store: LLMStore | None = None
) -> Estimate:
    """Return what these requests would take; equal ones and stored ones are not sent."""
    seen: set[str] = set()
    whole = Estimate()
    for request in requests:
        key = request.key(config)
        if key in seen:
            continue
        seen.add(key)
        if store is not None and store.answer(key) is not None:
            whole += Estimate(stored=1)
            continue
        limit = request.output_limit(config)
        whole += Estimate.of_calls(config, 1, prompt_tokens(request), limit)
    return whole
