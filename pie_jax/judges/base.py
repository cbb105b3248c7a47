"""The interface of a judge: it has an explanation, sees texts, and never sees an activation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from pie_jax.features.texts import TokenText


class JudgeFailed(Exception):
    """A judgement that could not be had: `status` says why, `again` whether asking helps."""

    def __init__(self, status: str, *, again: bool = True):
        super().__init__(status)
        self.status, self.again = status, again


class Judge(Protocol):
    """Rates, matches and writes texts. Raises `JudgeFailed`; ids without an answer are left out.

    `attempt` counts how often the same was asked before, so that no stored answer comes again.
    """

    @property
    def name(self) -> str:
        """The judge's name in the registry."""
        ...

    @property
    def model(self) -> str | None:
        """The LLM, if there is one."""
        ...

    async def rate(
        self, explanation: str, texts: Mapping[int, TokenText], attempt: int = 0
    ) -> Mapping[int, int]:
        """Return 0 (not expressed), 1 (partly) or 2 (clearly) by id."""
        ...

    async def match(
        self,
        explanation: str,
        texts: Mapping[int, TokenText],
        marks: Mapping[int, frozenset[int]] | None = None,
        attempt: int = 0,
    ) -> Mapping[int, bool]:
        """Say by id whether the explanation fits the text or, with `marks`, its marked tokens."""
        ...

    async def write(
        self, explanation: str, count: int, neutral: Sequence[TokenText], draw: int, seed: int
    ) -> list[str]:
        """Return about `count` texts on which the feature should be active.

        `neutral` are other texts, for a judge that needs some; `draw` numbers calls for more.
        """
        ...
