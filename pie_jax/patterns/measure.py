"""Precision and recall of patterns, on windows that they were not learned from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pie_jax.features.texts import TokenText
from pie_jax.patterns.pattern import Pattern, match


class Fit(NamedTuple):
    """`precision` the share of matched tokens on which the feature fires, `recall` the share of
    its activation that is on matched tokens; None where nothing matches, or nothing fires."""

    precision: float | None
    recall: float | None


def measure(patterns: Sequence[Pattern], texts: Sequence[TokenText]) -> Fit:
    """Return precision and recall of patterns over the tokens of windows."""
    matched = fires = 0
    caught = whole = 0.0
    for text in texts:
        for hit, activation in zip(match(patterns, text.tokens), text.activations, strict=True):
            matched += hit
            fires += hit and activation > 0
            caught += activation * hit
            whole += activation
    return Fit(fires / matched if matched else None, caught / whole if whole else None)
