"""How much of the targets each node holds, through all paths.

Shapes: Q rows (those of features, then of targets), N nodes, K targets.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from pie_jax.errors import PieError


def normalised(rows: Float[np.ndarray, "Q N"], least: float) -> Float[np.ndarray, "Q N"]:
    """Return the shares of each row's absolute values; `least` bounds their sum from below."""
    shares = np.abs(rows)
    shares /= np.maximum(shares.sum(axis=1, keepdims=True), np.float32(least))
    return shares


def influence(
    shares: Float[np.ndarray, "Q N"],
    weights: Float[np.ndarray, " Q"],
    node: Int[np.ndarray, " Q"],
) -> Float[np.ndarray, " N"]:
    """Return the sum over all paths from each node to the weighted rows; `node` [Q] says which node
    a row belongs to, -1 for a target.

    Raises `PieError` where effects go round in circles.
    """
    total = shares.T @ weights
    step, inner = total, node >= 0
    # A path passes no more nodes than there are rows.
    for _ in range(len(shares) + 1):
        arrived = np.zeros(len(shares), shares.dtype)
        arrived[inner] = step[node[inner]]
        used = np.flatnonzero(arrived)
        if not len(used):
            return total
        step = shares.T @ arrived
        total = total + step
    raise PieError("The graph's effects go round in circles: a feature is before itself.")
