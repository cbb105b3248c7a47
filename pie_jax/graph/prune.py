"""How much of the targets each node holds, the nodes and edges that hold most, and how complete a
graph is.

Shapes: Q rows (those of features, then of targets), T positions, L layers, S feature nodes, K
targets, N nodes, P rows and C columns of what is left of a graph's rows.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from pie_jax.errors import InputError, PieError
from pie_jax.graph.types import Graph, Pruned

_LEAST = 1e-10
# Scores that are counted at once.
_BLOCK = 1 << 24


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


def node_influence(graph: Graph) -> Float[np.ndarray, " N"]:
    """Return the influence of each node on the targets, each weighted by its probability."""
    return _influence(normalised(graph.rows, _LEAST), graph)


def scores(graph: Graph) -> tuple[float | None, float | None]:
    """Return the replacement score, tokens' share of the influence of tokens and errors, and the
    completeness score, the mean share of inputs that are no errors; None where nothing has
    influence."""
    shares = normalised(graph.rows, _LEAST)
    found, features = _influence(shares, graph).astype(np.float64), graph.feature_count
    errors = slice(features, features + graph.layers * len(graph.tokens))
    tokens = slice(errors.stop, errors.stop + len(graph.tokens))
    total = found[tokens].sum() + found[errors].sum()
    replacement = float(found[tokens].sum() / total) if total > 0 else None
    # Errors and tokens have no inputs, and count as complete.
    complete = np.ones(graph.node_count)
    without = 1 - shares[:, errors].sum(axis=1, dtype=np.float64)
    complete[:features] = without[:features]
    complete[graph.node_count - len(graph.targets) :] = without[features:]
    found[graph.node_count - len(graph.targets) :] += _weights(graph)[features:]
    total = found.sum()
    return replacement, float((complete * found).sum() / total) if total > 0 else None


def prune_graph(graph: Graph, nodes: float = 0.8, edges: float = 0.98) -> Pruned:
    """Return the strongest nodes that hold the share `nodes` of all influence, and of what is left
    the strongest edges that hold the share `edges`; tokens and targets stay.

    Then features and errors without an outgoing edge go, and features without an incoming one,
    until nothing changes. Of equal ones at the limit all stay. Raises `InputError` for a share
    outside 0 to 1.
    """
    for name, share in (("nodes", nodes), ("edges", edges)):
        if not 0 <= share <= 1:
            raise InputError(f"{name} {share}: a share from 0 to 1")
    found = node_influence(graph)
    kept = found >= smallest_kept(found, nodes)
    features, targets = graph.feature_count, len(graph.targets)
    always = graph.node_count - len(graph.tokens) - targets
    kept[always:] = True
    # What is removed has neither rows nor columns: only the rest is looked at.
    rows = np.flatnonzero(np.concatenate([kept[:features], np.ones(targets, bool)]))
    columns = np.flatnonzero(kept)
    strong = _strong_edges(graph, rows, columns, edges)
    stays = _connected(strong, rows, columns, features, always)
    mask = np.zeros(graph.rows.shape, bool)
    mask[np.ix_(rows, columns)] = strong
    final = np.zeros_like(kept)
    final[columns] = stays
    return Pruned(final, mask, _held(found))


def smallest_kept(values: Float[np.ndarray, "..."], share: float) -> float:
    """Return the value from which on the largest ones hold a share of the sum of all, exactly and
    without sorting all of them: infinity where the sum is 0.

    `values` are float32 and at least 0. With the share 1 it is the smallest above 0.
    """
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    # Numbers at least 0 are in the order of their bits: count by the upper half of them first.
    if share == 1:
        return float(flat.min(initial=np.inf, where=flat > 0))
    upper = (flat.view(np.uint32) >> 16).astype(np.uint16)
    sums = np.zeros(1 << 16)
    for begin in range(0, len(flat), _BLOCK):
        here = slice(begin, begin + _BLOCK)
        sums += np.bincount(upper[here], weights=flat[here], minlength=len(sums))
    above = np.cumsum(sums[::-1])[::-1] - sums
    wanted = share * sums.sum()
    if not sums.any():
        return float("inf")
    part = np.flatnonzero((sums > 0) & (above + sums >= wanted))[-1]
    inside = np.sort(flat[upper == part])[::-1]
    index = int(np.searchsorted(above[part] + np.cumsum(inside, dtype=np.float64), wanted))
    # Other orders of the sum round otherwise.
    return float(inside[min(index, int(np.count_nonzero(inside)) - 1)])


def _weights(graph: Graph) -> Float[np.ndarray, " S+K"]:
    probability = [target.probability for target in graph.targets]
    return np.array([0.0] * graph.feature_count + probability, np.float32)


def _influence(shares: Float[np.ndarray, "S+K N"], graph: Graph) -> Float[np.ndarray, " N"]:
    node = np.arange(len(shares))
    node[graph.feature_count :] = -1
    return influence(shares, _weights(graph), node)


def _strong_edges(
    graph: Graph, rows: np.ndarray, columns: np.ndarray, share: float
) -> Bool[np.ndarray, "P C"]:
    """Return which edges between the rows and columns that are left hold a share of influence."""
    shares = normalised(graph.rows[np.ix_(rows, columns)], _LEAST)
    weights = _weights(graph)[rows]
    inner = int(np.count_nonzero(rows < graph.feature_count))
    # Features that are left are the first columns too.
    node = np.arange(len(rows))
    node[inner:] = -1
    through = weights.copy()
    through[:inner] += influence(shares, weights, node)[:inner]
    shares *= through[:, None]
    return shares >= smallest_kept(shares, share)


def _connected(
    edges: Bool[np.ndarray, "P C"],
    rows: np.ndarray,
    columns: np.ndarray,
    features: int,
    always: int,
) -> Bool[np.ndarray, " C"]:
    """Return which columns stay, and take the edges of the others out of `edges`."""
    inner, loose = int((rows < features).sum()), int((columns < always).sum())
    stays = np.ones(len(columns), bool)
    while True:
        before = stays.copy()
        stays[:loose] &= edges[:, :loose].any(axis=0)
        stays[:inner] &= edges[:inner].any(axis=1)
        edges[:inner][~stays[:inner]] = False
        edges[:, ~stays] = False
        if np.array_equal(stays, before):
            return stays


def _held(found: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Return the share of all influence that each node and all stronger ones hold."""
    order = np.argsort(-found, kind="stable")
    held = np.empty(len(found))
    total = found.sum(dtype=np.float64)
    held[order] = np.cumsum(found[order], dtype=np.float64) / (total if total > 0 else 1.0)
    return held if total > 0 else np.ones(len(found))
