"""Selection of a kept set from scores: the K largest by magnitude, over all layers or in each.

Shapes: B batch, N occurrences, K budget. A kept set lists indices in order of rank, padded
with -1.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

PADDING = -1


class Selection(NamedTuple):
    """Kept sets of a batch, best first: `kept` [B, K] indices padded with -1, `score` [B, K]."""

    kept: np.ndarray
    score: np.ndarray


def rank(score: np.ndarray, count: int) -> np.ndarray:
    """Return the first `count` indices of score [N] by falling magnitude; ties keep their order."""
    return np.argsort(-np.abs(score[:count]), kind="stable")


def keep_top(
    score: np.ndarray, layer: np.ndarray, count: int, budget: int, scope: str
) -> np.ndarray:
    """Return the kept set [K] of one prompt.

    `per-layer` gives every layer an equal share of K; what a layer cannot fill, and what does
    not divide, goes to the best of the rest.
    """
    order = rank(score, count)
    if scope == "global":
        return pad(order[:budget], budget)
    ranked_layers = layer[order]
    share = budget // (int(ranked_layers.max(initial=0)) + 1)
    within = np.zeros(len(order), np.int64)
    for index in np.unique(ranked_layers):
        here = ranked_layers == index
        within[here] = np.arange(here.sum())
    first = order[within < share]
    rest = order[within >= share][: budget - len(first)]
    kept = np.concatenate([first, rest])
    return pad(kept[np.argsort(-np.abs(score[kept]), kind="stable")], budget)


def pad(kept: np.ndarray, budget: int) -> np.ndarray:
    """Fill a kept set up to its budget with -1."""
    return np.pad(kept.astype(np.int32), (0, budget - len(kept)), constant_values=PADDING)


def with_scores(kept: np.ndarray, scores: np.ndarray) -> Selection:
    """Attach to kept sets [B, K] the scores [B, N] of their members."""
    chosen = np.take_along_axis(scores, np.maximum(kept, 0), axis=1)
    return Selection(kept, np.where(kept == PADDING, 0.0, chosen).astype(np.float32))
