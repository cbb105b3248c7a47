"""Means of a run's measures by method and budget, in words, with what is undefined and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from pie_jax.charts.text import UNDEFINED, number, percent
from pie_jax.intervals import Mean
from pie_jax.prune.results.tables import PruneResult


class Cell(NamedTuple):
    """A mean and its interval as text; `best` marks the column's lowest KL."""

    mean: str
    interval: str = ""
    best: bool = False


class MeasureTable(NamedTuple):
    """One measure: what it means, a row of cells a method, and a note on undefined values."""

    title: str
    meaning: str
    rows: list[tuple[str, list[Cell]]]
    note: str


class Measure(NamedTuple):
    """A column of `behaviour` and how it is told."""

    column: str
    title: str
    meaning: str
    axis: str
    show: Callable[[float | None], str] = number
    # A value worth a line across the chart.
    level: float | None = None


KL_LAST = Measure(
    "kl_last",
    "KL at the last position",
    "KL(clean ‖ circuit) in nats at the last position; lower is closer to the model.",
    "KL at the last position (nats)",
)
OTHERS = (
    Measure(
        "top1_changed",
        "Prediction changed",
        "Share of prompts whose most likely next token differs from the clean run's.",
        "share of prompts",
        percent,
    ),
    Measure(
        "kl_mean",
        "KL over all positions",
        "KL(clean ‖ circuit), its mean over positions, BOS included.",
        "mean KL (nats)",
    ),
    Measure(
        "faithfulness",
        "Faithfulness",
        "(m(circuit) − m(nothing)) / (m(clean) − m(nothing)); 1 is the whole behaviour.",
        "faithfulness",
        level=1.0,
    ),
    Measure(
        "completeness",
        "Completeness",
        "The same share with only the circuit removed; 0 means that nothing of it is left.",
        "completeness",
    ),
)


def measure_table(
    result: PruneResult, measure: Measure, methods: Sequence[str], budgets: Sequence[int]
) -> MeasureTable:
    """Return a measure's means with 95% bootstrap intervals over prompts."""
    summary = result.summary(measure.column)
    means = {m: [summary.get(m, {}).get(b) for b in budgets] for m in methods}
    lowest = _lowest(means, len(budgets)) if measure is KL_LAST else []
    rows = [
        (
            method,
            [
                cell(mean, measure.show, best=(method, i) in lowest)
                for i, mean in enumerate(means[method])
            ],
        )
        for method in methods
    ]
    return MeasureTable(measure.title, measure.meaning, rows, _note(result, measure.column))


def cell(mean: Mean | None, show: Callable[[float | None], str], best: bool = False) -> Cell:
    """Return a mean as text."""
    if mean is None:
        return Cell(UNDEFINED)
    interval = f"{show(mean.low)} to {show(mean.high)}" if mean.n > 1 else ""
    return Cell(show(mean.mean), interval, best)


def _lowest(means: dict[str, list[Mean | None]], budgets: int) -> list[tuple[str, int]]:
    """Return (method, column) of each budget's lowest mean, where there is a choice."""
    found = []
    for i in range(budgets):
        defined = [(m, row[i].mean) for m, row in means.items() if row[i] is not None]  # type: ignore[union-attr]
        if len(defined) > 1:
            least = min(value for _, value in defined)
            found += [(method, i) for method, value in defined if value == least]
    return found


def _note(result: PruneResult, column: str) -> str:
    """Say for how many prompts a measure is undefined, and why; empty where it never is."""
    values = result.behaviour[column].to_numpy(zero_copy_only=False).astype(np.float64)
    missing = np.isnan(values)
    if not missing.any():
        return ""
    prompts = result.behaviour["prompt"].to_numpy()
    without, every = len(np.unique(prompts[missing])), len(np.unique(prompts))
    reasons = result.behaviour["undefined"].to_pylist()
    found = sorted(
        {reason for reason, lost in zip(reasons, missing, strict=True) if lost and reason}
    )
    why = "; ".join(found) or "the value is not a number"
    return f"Undefined for {without} of {every} prompts, which no mean includes: {why}."
