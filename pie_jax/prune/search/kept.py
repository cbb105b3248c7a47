"""Kept sets of occurrences, from circuits of candidates.

Shapes: B batch, N occurrences, P candidates, K budget.
"""

from __future__ import annotations

import numpy as np

from pie_jax.devices.mesh import fetch
from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.engine.selection import PADDING, Selection, pad
from pie_jax.prune.search.space import Space


def to_selection(
    inputs: BatchEvaluator, space: Space, members: np.ndarray, score: np.ndarray, budget: int
) -> Selection:
    """Return the kept set of each circuit [B, K], ordered by score [B, K] from the largest down.

    Where a circuit has fewer than K members, the largest changes of activation fill it up with a
    score of 0.
    """
    index = fetch(space.occurrence)
    rows = [_one(inputs, index[b], b, members[b], score[b], budget) for b in range(len(members))]
    kept, scores = zip(*rows, strict=True)
    return Selection(np.stack(kept), np.stack(scores).astype(np.float32))


def _one(
    inputs: BatchEvaluator,
    index: np.ndarray,
    b: int,
    members: np.ndarray,
    score: np.ndarray,
    budget: int,
) -> tuple[np.ndarray, np.ndarray]:
    count = int(inputs.occurrences.count[b])
    real = np.flatnonzero(members != PADDING)
    real = real[np.argsort(-score[real], kind="stable")][:budget]
    kept = index[members[real]]
    size = np.abs(inputs.occurrences.delta[b, :, :count]).sum(axis=0)
    rest = np.argsort(-size, kind="stable")
    rest = rest[~np.isin(rest, kept)][: budget - len(kept)]
    scores = np.concatenate([score[real], np.zeros(budget - len(real))])
    return pad(np.concatenate([kept, rest]), budget), scores
