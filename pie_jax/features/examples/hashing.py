"""Draws that depend on what is drawn, not on when: 64-bit hashes in place of a random generator.

Shapes: B windows, T positions, n features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pie_jax.features.records import FeatureKey


def mix(values: np.ndarray) -> np.ndarray:
    """Return splitmix64 of each number: equal for equal ones, and otherwise as if random."""
    x = np.asarray(values, np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def feature_seeds(keys: Sequence[FeatureKey], seed: int) -> np.ndarray:
    """Return each feature's own seed [n], whatever other features are asked for."""
    layer, feature = np.array(keys, np.uint64).reshape(-1, 2).T
    return mix(mix(mix(np.full(len(keys), seed % 2**64, np.uint64)) ^ layer) ^ feature)


def content_hash(tokens: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Return a hash [B] of each window's real tokens; `tokens` [B, T], `length` [B]."""
    state = mix(length.astype(np.uint64))
    real = np.arange(tokens.shape[1]) < length[:, None]
    # One more, so that a token 0 differs from padding.
    column = np.where(real, tokens + 1, 0).astype(np.uint64)
    for position in range(tokens.shape[1]):
        state = mix(state ^ column[:, position])
    return state
