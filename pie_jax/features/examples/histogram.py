"""Frequency and strength of activations: exact counts that two passes can add.

Shapes: n features, E active entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Fine bins of (0, R], R the power of two above a feature's maximum. When the maximum outgrows R,
# bins are added in pairs: the result is that of binning by the larger R from the start.
FINE = 512


@dataclass
class Statistics:
    """`tokens` seen; `active` [n] of them with the feature on; `maximum` [n]; `fine` [n, FINE]."""

    tokens: int
    active: np.ndarray
    maximum: np.ndarray
    fine: np.ndarray

    @classmethod
    def empty(cls, features: int) -> Statistics:
        """Return the statistics of no text."""
        return cls(
            0,
            np.zeros(features, np.int64),
            np.zeros(features, np.float32),
            np.zeros((features, FINE), np.int64),
        )

    def add(self, tokens: int, feature: np.ndarray, activation: np.ndarray) -> None:
        """Count `tokens` real tokens with their active entries: feature [E], activation [E]."""
        self.tokens += tokens
        self.active += np.bincount(feature, minlength=len(self.active))
        highest = self.maximum.copy()
        np.maximum.at(highest, feature, activation)
        self._raise_to(highest)
        place = bin_of(activation, octave(highest)[feature], FINE)
        np.add.at(self.fine, (feature, place), 1)

    def merged(self, other: Statistics) -> Statistics:
        """Return the statistics of both texts together."""
        one, two = self._copy(), other._copy()
        highest = np.maximum(one.maximum, two.maximum)
        one._raise_to(highest)
        two._raise_to(highest)
        return Statistics(
            one.tokens + two.tokens, one.active + two.active, highest, one.fine + two.fine
        )

    def histogram(self, steps: int) -> np.ndarray:
        """Return counts [n, steps] of active tokens in equal steps of (0, maximum].

        A fine bin counts where its middle lies: off by at most 1/FINE of the maximum's octave.
        """
        middle = (np.arange(FINE) + 0.5) / FINE
        out = np.zeros((len(self.active), steps), np.int64)
        for row, (fine, maximum, high) in enumerate(
            zip(self.fine, self.maximum, octave(self.maximum), strict=True)
        ):
            if maximum > 0:
                share = np.ldexp(middle, int(high)) / float(maximum)
                place = np.minimum(np.ceil(share * steps).astype(np.int64) - 1, steps - 1)
                out[row] = np.bincount(place, fine, minlength=steps)
        return out

    def _copy(self) -> Statistics:
        return Statistics(self.tokens, self.active.copy(), self.maximum.copy(), self.fine.copy())

    def _raise_to(self, highest: np.ndarray) -> None:
        rise = np.where(self.maximum > 0, octave(highest) - octave(self.maximum), 0)
        rise = np.minimum(rise, FINE.bit_length() - 1)
        for step in np.unique(rise[rise > 0]):
            rows = rise == step
            folded = self.fine[rows].reshape(rows.sum(), FINE >> step, -1).sum(axis=-1)
            self.fine[rows] = 0
            self.fine[rows, : FINE >> step] = folded
        self.maximum = highest


def octave(maximum: np.ndarray) -> np.ndarray:
    """Return e with maximum in [2^(e-1), 2^e), [n]."""
    return np.frexp(maximum)[1].astype(np.int64)


def bin_of(value: np.ndarray, high: np.ndarray, bins: int) -> np.ndarray:
    """Return the bin of each value among `bins` equal ones of (0, 2^high]; exact in floats."""
    scaled = np.ldexp(np.asarray(value, np.float64), -high) * bins
    return np.ceil(scaled).astype(np.int64) - 1
