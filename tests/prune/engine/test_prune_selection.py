"""The K largest by magnitude, over all layers or with a share for each."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pie_jax.prune.engine.selection import keep_top, pad, rank

# Few values, so that ties and zeros are common.
entries = st.lists(
    st.tuples(st.sampled_from([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0]), st.integers(0, 3)),
    max_size=20,
)
budgets = st.integers(1, 25)


def arrays(drawn: list[tuple[float, int]]) -> tuple[np.ndarray, np.ndarray, int]:
    """Return score, layer (sorted, as occurrences are) and count, with padding of large scores."""
    drawn = sorted(drawn, key=lambda entry: entry[1])
    score = np.array([*(s for s, _ in drawn), 100.0, -100.0], np.float32)
    layer = np.array([*(layer for _, layer in drawn), 9, 9], np.int32)
    return score, layer, len(drawn)


def slow_top(score: np.ndarray, members: list[int], budget: int) -> list[int]:
    """Return the best members; ties keep their order."""
    return sorted(members, key=lambda n: (-abs(float(score[n])), n))[:budget]


@given(entries, budgets)
def test_global(drawn: list, budget: int):
    score, layer, count = arrays(drawn)
    kept = keep_top(score, layer, count, budget, "global")
    assert kept.shape == (budget,)
    best = slow_top(score, list(range(count)), budget)
    assert kept.tolist() == best + [-1] * (budget - len(best))
    assert rank(score, count)[:budget].tolist() == best


@given(entries, budgets)
def test_per_layer(drawn: list, budget: int):
    """Every layer its equal share, as far as it can fill it; the best of the rest fill up."""
    score, layer, count = arrays(drawn)
    kept = keep_top(score, layer, count, budget, "per-layer")
    layers = int(layer[:count].max()) + 1 if count else 1
    share = budget // layers
    first = []
    for index in range(layers):
        members = [n for n in range(count) if layer[n] == index]
        first += slow_top(score, members, share)
    rest = [n for n in range(count) if n not in first]
    expected = first + slow_top(score, rest, budget - len(first))
    real = kept[kept >= 0].tolist()
    assert kept.tolist() == real + [-1] * (budget - len(real))
    assert sorted(real) == sorted(expected)
    assert len(real) == min(budget, count)
    # In order of rank.
    magnitude = np.abs(score[real])
    assert (np.diff(magnitude) <= 0).all()


def test_per_layer_keeps_weak_layers():
    """Three layers of four, the first ten times as strong: two each, not six of the first."""
    score = np.array([40, 30, 20, 10, 4, 3, 2, 1, -0.4, -0.3, -0.2, -0.1], np.float32)
    layer = np.repeat(np.arange(3), 4).astype(np.int32)
    kept = keep_top(score, layer, 12, 6, "per-layer")
    assert kept.tolist() == [0, 1, 4, 5, 8, 9]
    # Seven do not divide by three: the best of the rest is the seventh.
    assert keep_top(score, layer, 12, 7, "per-layer").tolist() == [0, 1, 2, 4, 5, 8, 9]
    assert keep_top(score, layer, 12, 6, "global").tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("scope", ["global", "per-layer"])
def test_nothing_active_keeps_nothing(scope: str):
    score, layer = np.ones(4, np.float32), np.zeros(4, np.int32)
    assert keep_top(score, layer, 0, 3, scope).tolist() == [-1, -1, -1]


def test_pad():
    found = pad(np.array([5, 2]), 4)
    assert found.tolist() == [5, 2, -1, -1]
    assert found.dtype == np.int32
