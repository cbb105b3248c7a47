"""A judge without an LLM: it applies the patterns of a sentence literally."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pie_jax.features.texts import ShowsTokens, TokenText, split_text
from pie_jax.judges.base import JudgeFailed
from pie_jax.patterns import Pattern, PatternError, match, parse
from pie_jax.patterns.compose import compose


@dataclass(frozen=True)
class PatternsJudge:
    """Rates 2 where a pattern matches and 0 elsewhere. A 1 for half a match would take the texts
    that are hardest to tell apart out of the scores.

    With marks, at least half of the marked tokens have to match. Explanations that are no
    patterns fail with `not-a-pattern`.
    """

    tokenizer: ShowsTokens
    name: str = "patterns"
    model: str | None = None

    async def rate(
        self, explanation: str, texts: Mapping[int, TokenText], attempt: int = 0
    ) -> Mapping[int, int]:
        """Return a rating for every text."""
        patterns = _read(explanation)
        return {i: 2 * any(match(patterns, text.tokens)) for i, text in texts.items()}

    async def match(
        self,
        explanation: str,
        texts: Mapping[int, TokenText],
        marks: Mapping[int, frozenset[int]] | None = None,
        attempt: int = 0,
    ) -> Mapping[int, bool]:
        """Say of every text whether a pattern matches in it, or at its marks."""
        patterns = _read(explanation)
        hits = {i: match(patterns, text.tokens) for i, text in texts.items()}
        if marks is None:
            return {i: any(hit) for i, hit in hits.items()}
        return {
            i: 2 * sum(hit[at] for at in marks[i]) >= max(len(marks[i]), 1)
            for i, hit in hits.items()
        }

    async def write(
        self, explanation: str, count: int, neutral: Sequence[TokenText], draw: int, seed: int
    ) -> list[str]:
        """Put what the patterns ask for into neutral texts."""
        random = np.random.default_rng((seed, draw))
        windows = [text.tokens for text in neutral]

        def split(text: str) -> Sequence[str]:
            return split_text(self.tokenizer, text).tokens

        return compose(_read(explanation), windows, count, random, split)


def _read(explanation: str) -> tuple[Pattern, ...]:
    try:
        return parse(explanation)
    except PatternError:
        raise JudgeFailed("not-a-pattern", again=False) from None
