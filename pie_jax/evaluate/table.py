"""Means over features by group, with intervals and the counts of what is undefined."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pie_jax.evaluate.statistics import OK, Score, mean_score
from pie_jax.features.baselines import KEPT, SHUFFLED


@dataclass(frozen=True)
class Summary:
    """A scorer's mean over a group's features, what chance would get, and why some have none."""

    group: str
    scorer: str
    score: Score
    chance: float | None
    undefined: tuple[tuple[str, int], ...]


def summarise(table: pa.Table) -> list[Summary]:
    """Return the mean of every group and scorer, in the order in which they stand."""
    rows = table.select(["group", "scorer", "value", "chance", "status"]).to_pylist()
    cells: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        cells.setdefault((row["group"], row["scorer"]), []).append(row)
    return [_summary(group, scorer, cell) for (group, scorer), cell in cells.items()]


def difference(table: pa.Table, scorer: str, group: str = KEPT, other: str = SHUFFLED) -> Score:
    """Return the mean of (group - other) over the features that have both scores."""
    rows = table.select(["group", "scorer", "layer", "feature", "value"]).to_pylist()
    values: dict[str, dict[tuple[int, int], float]] = {group: {}, other: {}}
    for row in rows:
        if row["scorer"] == scorer and row["group"] in values and row["value"] is not None:
            values[row["group"]][row["layer"], row["feature"]] = row["value"]
    both = sorted(values[group].keys() & values[other].keys())
    return mean_score(np.array([values[group][key] - values[other][key] for key in both]))


def markdown(summaries: Sequence[Summary]) -> str:
    """Return a table of groups by scorers: mean [interval] (n), undefined ones counted."""
    groups = list(dict.fromkeys(one.group for one in summaries))
    scorers = list(dict.fromkeys(one.scorer for one in summaries))
    cells = {(one.group, one.scorer): _cell(one) for one in summaries}
    lines = ["| | " + " | ".join(scorers) + " |", "|---" * (len(scorers) + 1) + "|"]
    for group in groups:
        row = [cells.get((group, scorer), "") for scorer in scorers]
        lines.append(f"| {group} | " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def _summary(group: str, scorer: str, rows: list[dict]) -> Summary:
    values = np.array([np.nan if row["value"] is None else row["value"] for row in rows])
    chances = [row["chance"] for row in rows if row["chance"] is not None]
    reasons = Counter(row["status"] for row in rows if row["status"] != OK)
    return Summary(
        group,
        scorer,
        mean_score(values),
        float(np.mean(chances)) if chances else None,
        tuple(sorted(reasons.items())),
    )


def _cell(one: Summary) -> str:
    missing = sum(count for _, count in one.undefined)
    note = f", {missing} undefined" if missing else ""
    if one.score.value is None or one.score.interval is None:
        return f"– (n 0{note})"
    low, high = one.score.interval
    return f"{one.score.value:.2f} [{low:.2f}, {high:.2f}] (n {one.score.n}{note})"
