"""Which features are active where: the union of the clean and the corrupted run.

Shapes: B batch, M corruptions, L layers, T positions, D model, F features, N occurrences,
C capacity.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pie_jax.buckets import bucket, multiple
from pie_jax.kernels import Writes
from pie_jax.mesh import MODEL, fetch, put
from pie_jax.placement import place_weight
from pie_jax.transcoders.modules import Encoder, active_mask
from pie_jax.transcoders.stored import Transcoder

_LEAST_CAPACITY = 64


@dataclass(frozen=True)
class Occurrences:
    """The occurrences of a batch, [B, N] each, sorted by layer, position and feature.

    `clean` [B, N] and `corrupted` [B, M, N] are activations. Rows are padded on the right:
    prompt b has `count[b]` of them, the rest is zero.
    """

    layer: np.ndarray
    position: np.ndarray
    feature: np.ndarray
    clean: np.ndarray
    corrupted: np.ndarray
    count: np.ndarray

    @property
    def valid(self) -> np.ndarray:
        """Return which entries are real, [B, N]."""
        return np.arange(self.layer.shape[1]) < self.count[:, None]

    @property
    def delta(self) -> np.ndarray:
        """Return the change of activation that removal undoes, [B, M, N]."""
        return self.clean[:, None] - self.corrupted


class _LayerUnion(NamedTuple):
    position: Int[Array, "B C"]
    feature: Int[Array, "B C"]
    clean: Float[Array, "B C"]
    corrupted: Float[Array, "B M C"]
    active: Int[Array, " B"]


class OccurrenceFinder:
    """Encodes layer by layer into lists of fixed capacity, which grows when one overflows."""

    def __init__(self, transcoder: Transcoder):
        self._transcoder = transcoder
        self._capacity = _LEAST_CAPACITY

    def find(
        self,
        clean: Float[Array, "B L T D"],
        corrupted: Float[Array, "B M L T D"] | None,
        lengths: np.ndarray,
    ) -> Occurrences:
        """Return the union of what is active on the clean run and on any of M corrupted ones.

        None stands for one corruption under which every activation is 0.
        """
        length = put(self._transcoder.mesh, lengths)
        layers = [self._layer(layer, clean, corrupted, length) for layer in range(clean.shape[1])]
        return _merge(layers)

    def _layer(
        self, layer: int, clean: Array, corrupted: Array | None, length: Array
    ) -> _LayerUnion:
        encoder = self._transcoder.encoder(layer)
        x = clean[:, layer]
        y = None if corrupted is None else corrupted[:, :, layer]
        while True:
            union = jax.tree.map(fetch, _union(encoder, x, y, length, self._capacity))
            most = int(union.active.max())
            if most <= self._capacity:
                return union
            self._capacity = bucket(most, _LEAST_CAPACITY)


@partial(jax.jit, static_argnames="capacity")
def _union(
    encoder: Encoder, clean: Array, corrupted: Array | None, length: Array, capacity: int
) -> _LayerUnion:
    def one(x: Array, y: Array | None, length: Array) -> _LayerUnion:
        real = active_mask(length, x.shape[0])[:, None]
        a = jnp.where(real, encoder(x), 0.0)
        b = jnp.zeros_like(a)[None] if y is None else jnp.where(real, jax.vmap(encoder)(y), 0.0)
        active = ((a > 0) | (b > 0).any(0)).ravel()
        index = jnp.nonzero(active, size=capacity, fill_value=0)[0]
        position, feature = jnp.divmod(index, a.shape[1])
        corrupted = b.reshape(b.shape[0], -1)[:, index]
        return _LayerUnion(position, feature, a.ravel()[index], corrupted, active.sum())

    axes = (0, None if corrupted is None else 0, 0)
    return jax.vmap(one, axes)(clean, corrupted, length)


def _merge(layers: list[_LayerUnion]) -> Occurrences:
    counts = np.stack([layer.active for layer in layers], axis=1)
    total = counts.sum(axis=1)
    # From this batch alone: a resumed run meets the same shapes, so the same sums.
    size = bucket(int(total.max(initial=0)), _LEAST_CAPACITY)
    shape = (len(total), size)
    versions = layers[0].corrupted.shape[1]
    out = {
        "position": np.zeros(shape, np.int32),
        "feature": np.zeros(shape, np.int32),
        "clean": np.zeros(shape, np.float32),
        "corrupted": np.zeros((len(total), versions, size), np.float32),
    }
    layer_of = np.zeros(shape, np.int32)
    for b, row in enumerate(counts):
        ends = np.cumsum(row)
        for index, (end, n) in enumerate(zip(ends, row, strict=True)):
            layer_of[b, end - n : end] = index
            for name, array in out.items():
                array[b, ..., end - n : end] = getattr(layers[index], name)[b, ..., :n]
    return Occurrences(layer=layer_of, count=total.astype(np.int32), **out)


@dataclass(frozen=True)
class DecoderTable:
    """The decoder rows that a batch needs: `table` [R, D] as stored, and where each one writes."""

    table: Array
    writes: Writes


def read_rows(transcoder: Transcoder, occurrences: Occurrences) -> DecoderTable:
    """Read every needed decoder row once; rows of one feature stand together in the table."""
    config, valid = transcoder.config, occurrences.valid
    width = np.array([config.targets(layer) for layer in range(config.num_layers)], np.int32)
    start = np.zeros(occurrences.layer.shape, np.int32)
    needed: list[np.ndarray] = []
    size = 0
    for layer in range(config.num_layers):
        here = valid & (occurrences.layer == layer)
        features, rank = np.unique(occurrences.feature[here], return_inverse=True)
        start[here] = size + rank * width[layer]
        needed.append(features)
        size += len(features) * int(width[layer])
    table = _read_table(transcoder, needed, bucket(size, _LEAST_CAPACITY))
    first = occurrences.layer
    last = first + width[first] - 1
    where = (start, first, last, occurrences.position)
    writes = Writes(*(put(transcoder.mesh, array) for array in where))
    return DecoderTable(table, writes)


def _read_table(transcoder: Transcoder, needed: list[np.ndarray], size: int) -> Array:
    """Read some features' rows layer by layer into one table [R, D], a shard its own rows."""
    mesh, d_model = transcoder.mesh, transcoder.config.d_model
    shape = (multiple(size, 1 if mesh is None else mesh.shape[MODEL]), d_model)

    def read(index: tuple[slice, ...]) -> np.ndarray:
        first, last, _ = index[0].indices(shape[0])
        table = np.zeros((last - first, d_model), transcoder.decoder_maps[0].dtype)
        start = 0
        for layer, features in enumerate(needed):
            width = transcoder.config.targets(layer)
            end = start + len(features) * width
            low, high = max(first, start), min(last, end)
            if low < high:
                skipped = (low - start) // width
                some = features[skipped : -((start - high) // width)]
                rows = transcoder.rows(layer, some).reshape(-1, d_model)
                at = start + skipped * width
                table[low - first : high - first] = rows[low - at : high - at]
            start = end
        return table

    return place_weight(mesh, "decoder.table", shape, read)
