"""Explained features with their scores and windows, in the form that the page shows."""

from __future__ import annotations

import math
from typing import NamedTuple

from pie_jax.charts.text import UNDEFINED, number, printable
from pie_jax.features.texts import TokenText

# Shades of a marked token, by its share of the feature's maximum.
SHADES = 4


class Piece(NamedTuple):
    """A run of text and its shade, 0 for none."""

    text: str
    shade: int


class ScoreCell(NamedTuple):
    """A score as text, a note on it, and the number to sort by (empty if undefined)."""

    value: str
    note: str
    order: str


class ExplainedRow(NamedTuple):
    """A kept feature as the table shows it."""

    layer: int
    feature: int
    kept: str
    order: int
    frequency: str
    text: str
    explained: bool
    scores: list[ScoreCell]
    windows: list[list[Piece]]
    promoted: list[str]


class Explained(NamedTuple):
    """What the page shows of stages II and III; `groups` is empty before stage III."""

    rows: list[ExplainedRow]
    total: int
    scorers: list[str]
    groups: list[tuple[str, str, list[ScoreCell]]]
    chances: list[str]
    whose: str
    explainer: str
    judge: str


def pieces(text: TokenText, maximum: float) -> list[Piece]:
    """Return a window's text with its active tokens shaded, as few pieces as can be."""
    out: list[Piece] = []
    values = text.activations or (0.0,) * len(text.tokens)
    for token, value in zip(text.tokens, values, strict=True):
        share = min(value / maximum, 1.0) if maximum > 0 and value > 0 else 0.0
        shade = math.ceil(share * SHADES)
        shown = printable(token)
        if out and out[-1].shade == shade == 0:
            out[-1] = Piece(out[-1].text + shown, 0)
        else:
            out.append(Piece(shown, shade))
    return out


def score_cell(
    value: float | None, low: float | None, high: float | None, n: int, note: str = ""
) -> ScoreCell:
    """Return a score; an undefined one says why."""
    if value is None:
        return ScoreCell(UNDEFINED, printable(note), "")
    interval = "" if low is None or high is None else f"{number(low)} to {number(high)}, "
    return ScoreCell(number(value), f"{interval}n {n}", f"{value:.6f}")
