"""The kept features of every method and budget, in the form that the page shows and sorts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pie_jax.charts.text import number, ranges, visible
from pie_jax.features.promoted import PromotedTokens
from pie_jax.prune.results.tables import PruneResult

# Rows shown for a method and budget; features.parquet has them all.
ROWS = 40


class FeatureRow(NamedTuple):
    """A kept feature: prompts that keep it of those where it is active, and its mean score."""

    layer: int
    feature: int
    kept: int
    active: int
    score: str
    positions: str


class FeatureList(NamedTuple):
    """The first `ROWS` features of one method and budget, out of `total`."""

    rows: list[FeatureRow]
    total: int


def feature_list(result: PruneResult, method: str, budget: int) -> FeatureList:
    """Return the features kept in most prompts, then by mean magnitude of score."""
    table = result.features
    methods = table["method"].to_numpy(zero_copy_only=False)
    chosen = np.flatnonzero((methods == method) & (table["budget"].to_numpy() == budget))
    part = table.take(chosen)
    order = np.lexsort((-part["mean_abs_score"].to_numpy(), -part["prompts_kept"].to_numpy()))
    rows = [
        FeatureRow(
            row["layer"],
            row["feature"],
            row["prompts_kept"],
            row["prompts_active"],
            number(row["mean_score"]),
            ranges(row["positions"]),
        )
        for row in part.take(order[:ROWS]).to_pylist()
    ]
    return FeatureList(rows, len(chosen))


def token_texts(found: Sequence[PromotedTokens]) -> dict[tuple[int, int], list[list[str]]]:
    """Return [promoted, suppressed] texts of every feature."""
    return {
        (one.layer, one.feature): [
            [visible(token.text) for token in side] for side in (one.promoted, one.suppressed)
        ]
        for one in found
    }


def payload(
    lists: dict[tuple[str, int], FeatureList],
    tokens: dict[tuple[int, int], list[list[str]]],
) -> dict[str, Any]:
    """Return what the page's script needs to show another method or budget."""
    used = {(row.layer, row.feature) for part in lists.values() for row in part.rows}
    return {
        "lists": {
            f"{method}/{budget}": {"total": part.total, "rows": part.rows}
            for (method, budget), part in lists.items()
        },
        "tokens": {f"{layer}/{feature}": tokens[layer, feature] for layer, feature in sorted(used)},
    }
