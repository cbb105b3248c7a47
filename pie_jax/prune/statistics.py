"""Means over prompts with bootstrap intervals."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Mean(NamedTuple):
    """A mean over prompts, its 95% bootstrap interval, and how many defined values went in."""

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
    draws = np.random.default_rng(seed).integers(0, len(defined), (resamples, len(defined)))
    low, high = np.percentile(defined[draws].mean(axis=1), [2.5, 97.5])
    return Mean(float(defined.mean()), float(low), float(high), len(defined))
