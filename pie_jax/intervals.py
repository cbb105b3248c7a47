"""Means over prompts with bootstrap intervals.

By hand, as importing scipy.stats takes half a second of every command; tests hold it against scipy.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_INTERVAL = (2.5, 97.5)


class Mean(NamedTuple):
    """A mean over prompts, or a ratio of two, its 95% bootstrap interval, and how many defined
    values went in."""

    mean: float
    low: float
    high: float
    n: int


def bootstrap_mean(values: np.ndarray, *, resamples: int = 2000, seed: int = 0) -> Mean | None:
    """Return the mean of the defined (not NaN) values with its interval; None where there is none.

    Percentile bootstrap over prompts.
    """
    defined = np.asarray(values, np.float64)
    defined = defined[~np.isnan(defined)]
    if len(defined) == 0:
        return None
    low, high = np.percentile(
        defined[_draws(len(defined), resamples, seed)].mean(axis=1), _INTERVAL
    )
    return Mean(float(defined.mean()), float(low), float(high), len(defined))


def bootstrap_ratio(
    one: np.ndarray, other: np.ndarray, *, resamples: int = 2000, seed: int = 0
) -> Mean | None:
    """Return mean(one) / mean(other) over the prompts that define both, with its interval; both are
    drawn together.

    None where there is no such prompt, or where the lower mean is not above 0 in every draw.
    """
    both = ~(np.isnan(one) | np.isnan(other))
    above, below = np.asarray(one, np.float64)[both], np.asarray(other, np.float64)[both]
    if len(above) == 0 or below.mean() <= 0:
        return None
    draws = _draws(len(above), resamples, seed)
    means = below[draws].mean(axis=1)
    if means.min() <= 0:
        return None
    low, high = np.percentile(above[draws].mean(axis=1) / means, _INTERVAL)
    return Mean(float(above.mean() / below.mean()), float(low), float(high), len(above))


def _draws(count: int, resamples: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, count, (resamples, count))
