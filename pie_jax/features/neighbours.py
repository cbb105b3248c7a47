"""Features of the same layer whose decoders point the same way.

Shapes: n features, F features of a layer, W target layers, D model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from pie_jax.features.records import FeatureKey
from pie_jax.transcoders.store import Transcoder

# Numbers of a block of decoder rows: 64 MB in float32.
_BLOCK = 1 << 24
Found = dict[FeatureKey, tuple[tuple[int, float], ...]]


def nearest_decoders(
    transcoder: Transcoder,
    keys: Sequence[FeatureKey],
    count: int = 5,
    *,
    progress: Callable[[int, int, str], None] | None = None,
) -> Found:
    """Return for each feature the `count` nearest others by cosine of their joined decoder rows.

    Reads every decoder of the layers concerned once, in blocks. Ties go to the lower feature; a
    decoder of zeros has no direction and is never a neighbour.
    """
    by_layer: dict[int, list[int]] = defaultdict(list)
    for layer, feature in keys:
        by_layer[layer].append(feature)
    found: Found = {}
    for number, (layer, features) in enumerate(sorted(by_layer.items()), start=1):
        if count:
            found |= _in_layer(transcoder, layer, features, count)
        if progress is not None:
            progress(number, len(by_layer), "layers' decoders compared")
    return {key: found.get(key, ()) for key in keys}


def _in_layer(transcoder: Transcoder, layer: int, features: list[int], count: int) -> Found:
    config = transcoder.config
    own, alive = _directions(transcoder, layer, np.asarray(features))
    best: np.ndarray = np.zeros((len(features), 0), np.float32)
    names: np.ndarray = np.zeros((len(features), 0), np.int64)
    step = max(1, _BLOCK // (config.targets(layer) * config.d_model))
    for start in range(0, config.features, step):
        block = np.arange(start, min(start + step, config.features))
        rows, real = _directions(transcoder, layer, block)
        cosine = np.where(real & (block != np.asarray(features)[:, None]), own @ rows.T, -np.inf)
        best = np.concatenate([best, cosine], axis=1)
        names = np.concatenate([names, np.broadcast_to(block, cosine.shape)], axis=1)
        order = np.argsort(-best, axis=1, kind="stable")[:, :count]
        best, names = (np.take_along_axis(array, order, axis=1) for array in (best, names))
    return {
        FeatureKey(layer, feature): tuple(
            (int(name), float(np.clip(value, -1, 1)))
            for name, value in zip(names[row], best[row], strict=True)
            if alive[row] and np.isfinite(value)
        )
        for row, feature in enumerate(features)
    }


def _directions(
    transcoder: Transcoder, layer: int, features: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return unit vectors [n, W·D] in float32 and which of them are not zero."""
    rows = transcoder.rows(layer, features).reshape(len(features), -1).astype(np.float32)
    norm = np.linalg.norm(rows, axis=1)
    return rows / np.where(norm > 0, norm, 1)[:, None], norm > 0
