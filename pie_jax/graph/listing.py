"""The nodes and edges that a pruned graph keeps, as lists: what files and pages are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from pie_jax.graph.types import Graph, Pruned

FEATURE, ERROR, TOKEN, TARGET = "feature", "error", "token", "target"

Labels = Mapping[tuple[int, int], str]
Scores = Mapping[tuple[int, int], Mapping[str, float | None]]


class Node(NamedTuple):
    """A node of a graph. What a kind does not have is None.

    `number` is its place in `Graph.rows`' columns, `id` its name in files and links; `feature` the
    feature's number, `token` a token's or target's id, `target` its place in `Graph.targets`.
    """

    number: int
    id: str
    kind: str
    layer: int | None
    position: int
    feature: int | None = None
    token: int | None = None
    target: int | None = None
    activation: float | None = None

    @property
    def key(self) -> tuple[int, int] | None:
        """A feature's (layer, number), by which labels and scores are given."""
        return None if self.layer is None or self.feature is None else (self.layer, self.feature)


class Edges(NamedTuple):
    """Kept edges, E of them: numbers of both ends, and the signed direct effect.

    `share` is |weight| over the sum of |weights| into the target before pruning, NaN where that sum
    is 0. `row` is the target's place in `Graph.rows`.
    """

    source: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    share: np.ndarray
    row: np.ndarray

    def note(self, values: np.ndarray) -> np.ndarray:
        """Return what a note [R, N] says of these edges, [E]."""
        return values[self.row, self.source]


def all_nodes(graph: Graph) -> list[Node]:
    """Return every node of a graph, in the order of its numbers."""
    features = [
        Node(
            i,
            f"{layer}_{feature}_{position}",
            FEATURE,
            layer,
            position,
            feature=feature,
            activation=activation,
        )
        for i, (layer, position, feature, activation) in enumerate(
            zip(
                graph.layer.tolist(),
                graph.position.tolist(),
                graph.feature.tolist(),
                graph.activation.tolist(),
                strict=True,
            )
        )
    ]
    positions, first = len(graph.tokens), len(features)
    errors = [
        # Not circuit-tracer's `0_{layer}_{position}`, which is the id of a feature of layer 0.
        Node(first + i, f"err_{i // positions}_{i % positions}", ERROR, *divmod(i, positions))
        for i in range(graph.layers * positions)
    ]
    first += len(errors)
    tokens = [
        Node(first + i, f"E_{token}_{i}", TOKEN, None, i, token=token)
        for i, token in enumerate(graph.token_ids.tolist())
    ]
    first += len(tokens)
    targets = [
        Node(
            first + i,
            f"{graph.layers + 1}_{f'd{i}' if one.token is None else one.token}_{positions - 1}",
            TARGET,
            None,
            positions - 1,
            token=one.token,
            target=i,
        )
        for i, one in enumerate(graph.targets)
    ]
    return features + errors + tokens + targets


def kept_nodes(graph: Graph, pruned: Pruned) -> list[Node]:
    """Return the nodes that pruning keeps, in the order of their numbers.

    Raises `ValueError` where the masks are not of this graph, or a kept node's influence is not
    finite.
    """
    rows, count = graph.rows.shape
    shapes = {"nodes": (count,), "edges": (rows, count), "influence": (count,)}
    for name, shape in shapes.items():
        if (found := getattr(pruned, name).shape) != shape:
            raise ValueError(f"pruned.{name} has shape {found}; this graph's has {shape}")
    if not np.isfinite(pruned.influence[pruned.nodes]).all():
        raise ValueError("pruned.influence is not finite for a node that is kept")
    return [node for node in all_nodes(graph) if pruned.nodes[node.number]]


def kept_edges(graph: Graph, pruned: Pruned) -> Edges:
    """Return the edges that pruning keeps, both ends kept, row by row.

    Raises `ValueError` where one of their weights is not finite.
    """
    features = graph.feature_count
    row_node = np.r_[np.arange(features), graph.node_count - len(graph.targets) : graph.node_count]
    row, source = np.nonzero(pruned.edges)
    both = pruned.nodes[row_node[row]] & pruned.nodes[source]
    row, source = row[both], source[both]
    weight = graph.rows[row, source].astype(np.float64)
    if not np.isfinite(weight).all():
        raise ValueError("the weight of a kept edge is not finite")
    total = np.array([np.abs(r).sum(dtype=np.float64) for r in graph.rows])[row]
    share = np.full(len(weight), np.nan)
    np.divide(np.abs(weight), total, out=share, where=total > 0)
    return Edges(source, row_node[row], weight, share, row)


def edge_influence(graph: Graph, edges: Edges) -> np.ndarray:
    """Return [E] how much of the targets' probability passes each edge on a path of kept edges.

    An edge's share of its target's input, times what of the target reaches the graph's targets: the
    score that pruning ranks edges by, with nothing renormalised.
    """
    share = np.nan_to_num(edges.share)
    start = np.zeros(graph.node_count)
    start[graph.node_count - len(graph.targets) :] = [one.probability for one in graph.targets]
    reach: np.ndarray = start.copy()
    step: np.ndarray = start
    # No path visits more than one node of a layer, and the graph's two ends.
    for _ in range(graph.layers + 2):
        step = np.bincount(
            edges.source, weights=share * step[edges.target], minlength=graph.node_count
        )
        reach += step
    return share * reach[edges.target]
