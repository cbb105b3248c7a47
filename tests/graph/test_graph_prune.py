"""Influence, pruning and scores of graphs: by hand, and against a dense version that sorts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from pie_jax.errors import InputError, PieError
from pie_jax.graph.prune import node_influence, prune_graph, scores, smallest_kept
from pie_jax.graph.types import Graph, Pruned, Target

F32 = np.float32


def graph_of(rows: np.ndarray, layers: int, length: int, weights: Sequence[float]) -> Graph:
    count = len(rows) - len(weights)
    zero = np.zeros(count, np.int32)
    return Graph(
        tokens=("t",) * length,
        token_ids=np.zeros(length, np.int64),
        layers=layers,
        layer=zero,
        position=zero,
        feature=np.arange(count, dtype=np.int32),
        activation=np.ones(count, F32),
        targets=tuple(Target(f"{i}", i, weight) for i, weight in enumerate(weights)),
        rows=rows.astype(F32),
    )


def small_graph() -> Graph:
    """Features 0 to 4, errors 5 to 8, tokens 9 and 10, one logit: each node reads some equally."""
    rows = np.zeros((6, 12))
    for target, read in {0: [9], 1: [9, 10], 3: [0, 1, 6], 5: [1, 3, 6, 8]}.items():
        rows[target, read] = [10 * (-1) ** node for node in read]
    return graph_of(rows, 2, 2, [1.0])


def test_influence_by_hand():
    # 1/4 of the logit is each of 1, 3, 6 and 8; 3 hands on thirds, 1 halves.
    by_hand = np.array([1, 4, 0, 3, 0, 0, 4, 0, 3, 3, 2, 0]) / 12
    np.testing.assert_allclose(node_influence(small_graph()), by_hand, rtol=1e-6)


def test_scores_by_hand():
    # Tokens hold 5/12 and errors 7/12. Half of what the logit reads is errors, a third of 3's.
    replacement, completeness = scores(small_graph())
    assert replacement == pytest.approx(5 / 12, rel=1e-6)
    assert completeness == pytest.approx(25 / 32, rel=1e-6)


def test_pruning_by_hand():
    # In twelfths 4 + 4 + 3 + 3 + 3 of 20 are the first 0.8: feature 0 goes, with its edges.
    pruned = prune_graph(small_graph(), 0.8, 0.98)
    assert np.flatnonzero(pruned.nodes).tolist() == [1, 3, 6, 8, 9, 10, 11]
    edges = {(5, 1), (5, 3), (5, 6), (5, 8), (3, 1), (3, 6), (1, 9), (1, 10)}
    assert set(zip(*np.nonzero(pruned.edges), strict=True)) == edges
    held = np.array([20, 8, 20, 17, 20, 20, 8, 20, 17, 17, 19, 20]) / 20
    assert pruned.influence[[0, 10]] == pytest.approx(held[[0, 10]], rel=1e-6)
    assert pruned.influence[[1, 6]].max() == pytest.approx(8 / 20, rel=1e-6)
    # Edges hold 4 x 1/4, 2 x 3/16 and 2 x 1/8: without the last ones 3 reads nothing, and goes.
    pruned = prune_graph(small_graph(), 0.8, 0.8)
    assert np.flatnonzero(pruned.nodes).tolist() == [1, 6, 8, 9, 10, 11]
    assert set(zip(*np.nonzero(pruned.edges), strict=True)) == edges - {(5, 3), (3, 1), (3, 6)}


def dense_threshold(values: np.ndarray, share: float) -> float:
    values = np.sort(values.ravel())[::-1]
    if share == 1:
        return values[values > 0][-1]
    held = np.cumsum(values, dtype=np.float64)
    index = min(int(np.searchsorted(held, share * held[-1])), int((values > 0).sum()) - 1)
    return values[index]


def dense_influence(matrix: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    shares = np.abs(matrix)
    shares = shares / np.maximum(shares.sum(1, keepdims=True), F32(1e-10))
    inverse = np.linalg.inv(np.eye(len(matrix)) - shares.astype(np.float64))
    return shares, (weights @ (inverse - np.eye(len(matrix)))).astype(F32)


def dense_prune(graph: Graph, nodes: float, edges: float) -> tuple[np.ndarray, np.ndarray]:
    """Prune the full matrix, as the definition says."""
    count, features, targets = graph.node_count, graph.feature_count, len(graph.targets)
    matrix = np.zeros((count, count), F32)
    matrix[:features], matrix[count - targets :] = graph.rows[:features], graph.rows[features:]
    weights = np.zeros(count, F32)
    weights[count - targets :] = [target.probability for target in graph.targets]
    always = count - targets - len(graph.tokens)
    _, found = dense_influence(matrix, weights)
    kept = found >= dense_threshold(found, nodes)
    kept[always:] = True
    matrix[~kept] = 0
    matrix[:, ~kept] = 0
    shares, found = dense_influence(matrix, weights)
    score = shares * (found + weights)[:, None]
    edge = (score >= dense_threshold(score, edges)) & (score > 0)
    for _ in range(count):
        kept[:always] &= edge[:, :always].any(0)
        kept[:features] &= edge[:features].any(1)
        edge[~kept] = False
        edge[:, ~kept] = False
    return kept, np.concatenate([edge[:features], edge[count - targets :]])


def random_graph(seed: int, features: int = 60) -> Graph:
    rng = np.random.default_rng(seed)
    layers, length, targets = 3, 5, 4
    others = (layers + 1) * length
    rows = rng.standard_normal((features + targets, features + others)) ** 3
    # A feature reads earlier ones alone, and most of them not at all.
    rows[:features, :features] *= np.tri(features, k=-1)
    rows *= rng.random(rows.shape) < 0.3
    rows = np.pad(rows, ((0, 0), (0, targets)))
    return graph_of(rows, layers, length, rng.dirichlet(np.ones(targets)))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("shares", [(0.8, 0.98), (0.5, 0.7), (1.0, 1.0), (0.0, 0.0)])
def test_pruning_is_what_the_dense_definition_says(seed: int, shares: tuple[float, float]):
    graph = random_graph(seed)
    pruned = prune_graph(graph, *shares)
    nodes, edges = dense_prune(graph, *shares)
    np.testing.assert_array_equal(pruned.nodes, nodes)
    np.testing.assert_array_equal(pruned.edges, edges)


def test_a_node_is_kept_where_its_cumulative_influence_is_within_the_share():
    graph = random_graph(3)
    found, pruned = node_influence(graph), prune_graph(graph, 0.6, 1.0)
    kept = found >= smallest_kept(found, 0.6)
    # The one at which the share is reached stays too.
    assert pruned.influence[kept].max() >= 0.6
    assert np.sort(pruned.influence[kept])[-2] < 0.6 < pruned.influence[~kept].min()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999, 1.0])
def test_the_smallest_kept_value_is_found_without_sorting(share: float, monkeypatch):
    monkeypatch.setattr("pie_jax.graph.prune._BLOCK", 100)
    rng = np.random.default_rng(1)
    for values in (
        rng.random(1000).astype(F32),
        (rng.random((40, 50)) ** 20).astype(F32),
        rng.integers(0, 4, 700).astype(F32),  # ties
        np.array([0, 1e-40, 3e38, 0], F32),
        np.ones(3, F32),
    ):
        assert smallest_kept(values, share) == dense_threshold(values, share)


def test_a_graph_without_effects_has_no_scores():
    graph = graph_of(np.zeros((1, 5)), 1, 2, [0.7])
    assert scores(graph) == (None, 1.0)
    pruned: Pruned = prune_graph(graph)
    assert pruned.nodes.tolist() == [False, False, True, True, True]
    assert not pruned.edges.any()
    nothing = graph_of(np.zeros((1, 5)), 1, 2, [0.0])
    assert scores(nothing) == (None, None)


def test_errors():
    with pytest.raises(InputError, match=r"edges 1\.5: a share from 0 to 1"):
        prune_graph(small_graph(), 0.8, 1.5)
    round_in_circles = small_graph()
    round_in_circles.rows[1, 3] = 1.0
    with pytest.raises(PieError, match="round in circles"):
        node_influence(round_in_circles)
