"""Intervals and ranks by hand against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pie_jax.evaluate.statistics import auc
from pie_jax.intervals import bootstrap_mean, bootstrap_ratio

# Ends of intervals of the same data by other draws differ by this share of the interval's width.
MONTE_CARLO = 0.06
DRAWS = {"n_resamples": 20_000, "method": "percentile", "rng": np.random.default_rng(1)}


def _near(ours, theirs) -> None:
    low, high = theirs.confidence_interval
    near = MONTE_CARLO * (high - low)
    assert (ours.low, ours.high) == (pytest.approx(low, abs=near), pytest.approx(high, abs=near))


@pytest.mark.parametrize("count", [5, 40])
def test_intervals(count: int) -> None:
    above, below = np.random.default_rng(0).exponential(1.0, (2, count))
    below += 0.5
    ours = bootstrap_mean(np.append(above, np.nan), resamples=20_000)
    _near(ours, stats.bootstrap((above,), np.mean, vectorized=True, **DRAWS))
    ours = bootstrap_ratio(above, below, resamples=20_000)

    def ratio(one, other, axis):
        return one.mean(axis) / other.mean(axis)

    _near(ours, stats.bootstrap((above, below), ratio, paired=True, vectorized=True, **DRAWS))


@pytest.mark.parametrize("sizes", [(1, 1), (7, 12), (40, 3)])
def test_auc_is_the_mann_whitney_statistic(sizes: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    # Many ties, as activations have: most are 0.
    negative, positive = (np.maximum(rng.integers(-4, 5, size), 0) / 2 for size in sizes)
    expected = stats.mannwhitneyu(positive, negative).statistic / (sizes[0] * sizes[1])
    assert auc(negative, positive) == expected
