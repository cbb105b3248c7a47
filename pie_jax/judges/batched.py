"""Ask about many texts in batches; what failed is asked once more, and never scored."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from pie_jax.features.texts import TokenText
from pie_jax.judges.base import Judge, JudgeFailed

T = TypeVar("T")
Ask = Callable[[Sequence[int], int], Awaitable[Mapping[int, T]]]

_ATTEMPTS = 2


@dataclass
class Answers(Generic[T]):
    """Answers by id; `failed` ids have none, `reasons` count the calls that failed."""

    found: dict[int, T] = field(default_factory=dict)
    failed: tuple[int, ...] = ()
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def status(self) -> str:
        """Why there is no answer at all: the judge's own reason, or that all calls failed."""
        if "not-a-pattern" in self.reasons:
            return "not-a-pattern"
        kinds = ", ".join(sorted(self.reasons)) or "no-ratings"
        return f"all-calls-failed ({kinds})"


async def ask_in_batches(ask: Ask[T], ids: Sequence[int], size: int) -> Answers[T]:
    """Ask about `ids`, `size` a call, all calls at once; then once more about those left over.

    `ask(ids, attempt)` returns answers by id or raises `JudgeFailed`; answers to ids that were not
    asked for are dropped.
    """
    answers: Answers[T] = Answers()
    waiting = list(ids)

    async def call(batch: list[int], attempt: int) -> tuple[Mapping[int, T], bool]:
        try:
            return await ask(batch, attempt), True
        except JudgeFailed as error:
            answers.reasons[error.status] += 1
            return {}, error.again

    for attempt in range(_ATTEMPTS):
        batches = [waiting[i : i + size] for i in range(0, len(waiting), size)]
        replies = await asyncio.gather(*(call(batch, attempt) for batch in batches))
        for batch, (reply, _) in zip(batches, replies, strict=True):
            answers.found.update({i: reply[i] for i in batch if i in reply})
        waiting = [i for i in waiting if i not in answers.found]
        if not waiting or not any(again for _, again in replies):
            break
    answers.failed = tuple(waiting)
    return answers


async def rate_texts(
    judge: Judge, explanation: str, texts: Mapping[int, TokenText], size: int
) -> Answers[int]:
    """Return the rating of every text that got one."""

    async def ask(ids: Sequence[int], attempt: int) -> Mapping[int, int]:
        return await judge.rate(explanation, {i: texts[i] for i in ids}, attempt)

    return await ask_in_batches(ask, list(texts), size)


async def match_texts(
    judge: Judge,
    explanation: str,
    texts: Mapping[int, TokenText],
    size: int,
    marks: Mapping[int, frozenset[int]] | None = None,
) -> Answers[bool]:
    """Return for every text that got an answer whether it matches."""

    async def ask(ids: Sequence[int], attempt: int) -> Mapping[int, bool]:
        some = None if marks is None else {i: marks[i] for i in ids}
        return await judge.match(explanation, {i: texts[i] for i in ids}, some, attempt)

    return await ask_in_batches(ask, list(texts), size)
