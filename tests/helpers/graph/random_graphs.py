"""Random graphs that look like those of a model: causal, upward, with a few strong edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pie_jax.features.promoted import PromotedTokens, TokenEffect
from pie_jax.features.records import FeatureExamples, FeatureKey, Window
from pie_jax.features.texts import TokenText
from pie_jax.graph.listing import kept_nodes
from pie_jax.graph.page import Measured
from pie_jax.graph.types import Graph, Pruned, Target

WORDS = ("<bos>", "The", " capital", " of", " the", " state", " containing", " Dallas", " is")


@pytest.fixture(scope="module", name="made")
def made_graph() -> tuple[Graph, Pruned]:
    """A graph of the usual size, for the tests of one file."""
    return random_graph()


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


def dressed(graph: Graph, pruned: Pruned, *, text: str = "", seed: int = 0) -> dict[str, Any]:
    """Return what `write_page` takes beside a graph: labels, scores, examples, measurements.

    `text` is put into every label, window and token.
    """
    rng = np.random.default_rng(seed)
    words = [" Texas", " Dallas", " city", " state", " of", " capital", " the", " Austin", " in"]
    nodes = [node for node in kept_nodes(graph, pruned) if node.kind == "feature"]
    keys = list(dict.fromkeys(FeatureKey(*node.key) for node in nodes if node.key is not None))
    made: dict[str, Any] = {"labels": {}, "scores": {}, "examples": {}, "promoted": {}}
    for i, key in enumerate(keys):
        if i % 5:
            chosen = rng.choice(words, 2)
            made["labels"][key] = f"words like{chosen[0]} before{chosen[1]}{text}"
            value = None if i % 7 == 0 else float(rng.uniform(0.5, 1))
            made["scores"][key] = {"detection": value, "fuzzing": float(rng.uniform(0.5, 1))}
        effects = tuple(
            TokenEffect(n, f"{word}{text}", 1.0) for n, word in enumerate(rng.permutation(words))
        )
        made["promoted"][key] = [PromotedTokens(*key, None, effects, effects[::-1])]
        made["examples"][key] = examples_of(key, rng)
    made["read"] = lambda window: TokenText(
        tuple(f"{words[token % len(words)]}{text}" for token in window.tokens[1:]),
        tuple(window.activations[1:].tolist()),
    )
    made["measured"] = [
        Measured(node.number, target, factor, size, size * float(rng.uniform(0.5, 1.2)))
        for node in nodes[: len(nodes) // 2]
        for target in range(len(graph.targets))
        for factor, size in ((0.0, float(rng.normal())), (2.0, float(rng.normal())))
    ]
    return made


def examples_of(key: FeatureKey, rng: np.random.Generator) -> FeatureExamples:
    """Return five windows of 24 tokens, their strongest token first in size."""
    values = np.maximum(rng.normal(-1, 1.5, (5, 25)), 0).astype(np.float32)
    values[:, 0] = 0
    tokens = rng.integers(0, 9, (5, 25))
    top = sorted((Window(i, tokens[i], values[i]) for i in range(5)), key=lambda one: -one.maximum)
    empty: tuple[tuple[Window, ...], ...] = ((),) * 9
    return FeatureExamples(
        key=key,
        tokens_seen=1000,
        tokens_active=int((values > 0).sum()),
        maximum=float(values.max()),
        histogram=np.histogram(values[values > 0], 10)[0],
        top=tuple(top),
        deciles=(*empty, tuple(top)),
        inactive=(),
        neighbours=(),
        for_explaining=frozenset(),
        for_scoring=frozenset(),
    )


def with_twins(
    graph: Graph, edges: int, most: int = 6
) -> tuple[Graph, Pruned, list[tuple[int, int]]]:
    """Return the graph with pairs of features of one place that do nearly the same, and them."""
    place = list(zip(graph.layer.tolist(), graph.position.tolist(), strict=True))
    starts = [a for a in range(len(place) - 1) if place[a] == place[a + 1]]
    pairs = [(a, a + 1) for a in starts if a - 1 not in starts][:most]
    rows = graph.rows.copy()
    for a, b in pairs:
        rows[b] = 1.1 * rows[a]
        rows[:, b] = 0.9 * rows[:, a]
    graph = replace(graph, rows=rows)
    return graph, strongest(graph, edges), pairs
