"""Random graphs that look like those of a model: causal, upward, with a few strong edges."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pie_jax.graph.types import Graph, Pruned, Target

WORDS = ("<bos>", "The", " capital", " of", " the", " state", " containing", " Dallas", " is")


def random_graph(
    *,
    features: int = 30,
    edges: int = 200,
    layers: int = 6,
    tokens: Sequence[str] = WORDS,
    targets: Sequence[Target] | None = None,
    seed: int = 0,
) -> tuple[Graph, Pruned]:
    """Return a graph of at most `features` feature nodes and its `edges` strongest edges."""
    rng = np.random.default_rng(seed)
    positions = len(tokens)
    if targets is None:
        targets = (Target(" Austin", 900, 0.62), Target(" Texas", 901, 0.21))
    places = np.stack(
        [
            rng.integers(0, layers, features),
            # Later positions hold more.
            positions - 1 - (rng.beta(1, 2.5, features) * max(positions - 1, 1)).astype(int),
            rng.integers(0, 16384, features),
        ]
    )
    layer, position, feature = places[:, np.lexsort(places[::-1])]
    errors = layers * positions
    count = features + errors + positions + len(targets)
    node_layer = np.r_[
        layer,
        np.repeat(np.arange(layers), positions),
        np.full(positions, -1),
        [layers] * len(targets),
    ]
    node_position = np.r_[
        position,
        np.tile(np.arange(positions), layers),
        np.arange(positions),
        [positions - 1] * len(targets),
    ]
    row_nodes = np.r_[np.arange(features), np.arange(count - len(targets), count)]
    allowed = (node_layer[None] < node_layer[row_nodes, None]) & (
        node_position[None] <= node_position[row_nodes, None]
    )
    near = 0.4 + (node_position[None] == node_position[row_nodes, None])
    rows = (allowed * near * rng.standard_t(2, allowed.shape)).astype(np.float32)
    graph = Graph(
        tokens=tuple(tokens),
        token_ids=np.arange(positions) + 100,
        layers=layers,
        layer=layer,
        position=position,
        feature=feature,
        activation=rng.gamma(2, 3, features).astype(np.float32),
        targets=tuple(targets),
        rows=rows,
    )
    return graph, strongest(graph, edges)


def strongest(graph: Graph, edges: int) -> Pruned:
    """Keep the edges of the largest weights, and the nodes that they join."""
    features, count = graph.feature_count, graph.node_count
    first = count - len(graph.targets)
    size = np.abs(graph.rows)
    least = np.sort(size, axis=None)[-min(edges, size.size)]
    mask = (size >= least) & (size > 0)
    nodes = mask.any(axis=0)
    nodes[:features] |= mask[:features].any(axis=1)
    nodes[first - len(graph.tokens) :] = True
    share = size / np.maximum(size.sum(axis=1, keepdims=True), 1e-10)
    weight = np.zeros(count)
    weight[first:] = [one.probability for one in graph.targets]
    influence, step = np.zeros(count), weight
    for _ in range(graph.layers + 2):
        step = step[np.r_[np.arange(features), first:count]] @ share
        influence += step
    order = np.argsort(-influence, kind="stable")
    cumulative = np.empty(count)
    cumulative[order] = np.cumsum(influence[order]) / influence.sum()
    return Pruned(nodes, mask, cumulative)
