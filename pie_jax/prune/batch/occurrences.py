"""Which features are active where: the union of the clean and the corrupted run.

Shapes: B batch, M corruptions, L layers, T positions, D model, F features, N occurrences,
C capacity.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pie_jax.devices.mesh import copies, fetch, put
from pie_jax.devices.placement import host_zeros, place_weight
from pie_jax.devices.programs import program
from pie_jax.devices.shapes import coarse
from pie_jax.kernels import TILE, Tiles, Writes, active_union, block_size, top_union
from pie_jax.transcoders.modules import ZEROED_POSITIONS, Encoder, active_mask
from pie_jax.transcoders.store import Transcoder

# Active features of a position in any layer, counted with those of padding, at least: on the demo
# up to 98, so that all of its prompts of one length class have one N.
_OCCURRENCES = 128
_LEAST_TILES, _LEAST_BLOCKS = 64, 32
_MOST_THREADS = 8
# Of a layer's list; and active features of a position in one layer, at first.
_LEAST_CAPACITY, _ACTIVE = 512, 16


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
        self._capacity = 0

    def find(
        self,
        clean: Float[Array, "B L T D"],
        corrupted: Float[Array, "B M L T D"] | None,
        lengths: np.ndarray,
        zeroed: np.ndarray | None = None,
    ) -> Occurrences:
        """Return the union of what is active on the clean run and on any of M corrupted ones.

        None stands for one corruption under which every activation is 0. `zeroed` [B]: so many
        positions of each prompt hold no occurrences; None, BOS alone.
        """
        if zeroed is None:
            zeroed = np.full(len(lengths), ZEROED_POSITIONS, np.int32)
        span = put(self._transcoder.mesh, zeroed), put(self._transcoder.mesh, lengths)
        self._grow(_ACTIVE * clean.shape[2])
        layers = [self._layer(layer, clean, corrupted, span) for layer in range(clean.shape[1])]
        return _merge(layers, clean.shape[2])

    def _layer(
        self, layer: int, clean: Array, corrupted: Array | None, span: tuple[Array, Array]
    ) -> _LayerUnion:
        encoder = self._transcoder.encoder(layer)
        inputs = (encoder, np.int32(layer), clean, corrupted, *span)
        while True:
            union = jax.tree.map(fetch, _union(*inputs, self._capacity))
            most = int(union.active.max())
            if most <= self._capacity:
                return union
            self._grow(most)

    def _grow(self, size: int) -> None:
        self._capacity = max(self._capacity, coarse(size, _LEAST_CAPACITY))


@program("capacity")
def _union(
    encoder: Encoder,
    layer: Int[Array, ""],
    clean: Float[Array, "B L T D"],
    corrupted: Float[Array, "B M L T D"] | None,
    zeroed: Int[Array, " B"],
    length: Int[Array, " B"],
    capacity: int,
) -> _LayerUnion:
    weight, bias = encoder.weight[...], encoder.bias[...]
    threshold = None if encoder.threshold is None else encoder.threshold[...]
    rows = clean.shape[0] * clean.shape[2] * (1 if corrupted is None else 1 + corrupted.shape[1])
    block = block_size(rows, weight.shape[0])

    def one(x: Array, y: Array | None, zeroed: Array, length: Array) -> _LayerUnion:
        runs = x[None] if y is None else jnp.concatenate([x[None], y])
        runs = jax.lax.dynamic_index_in_dim(runs, layer, axis=1, keepdims=False)
        real = active_mask(length, runs.shape[1], zeroed)
        if encoder.top is None:
            found = active_union(weight, bias, threshold, runs, real, capacity, block)
        else:
            top = encoder.top
            found = top_union(weight, bias, runs, real, capacity, top.k, top.relu)
        clean, others = found.activation[0], found.activation[1:]
        others = jnp.zeros_like(clean)[None] if y is None else others
        return _LayerUnion(found.position, found.feature, clean, others, found.count)

    axes = (0, None if corrupted is None else 0, 0, 0)
    return jax.vmap(one, axes)(clean, corrupted, zeroed, length)


def occurrences_class(size: int, length: int) -> int:
    """Return the N of prompts padded to `length` that have at most `size` occurrences."""
    return length * coarse(-(-size // length), _OCCURRENCES)


def _merge(layers: list[_LayerUnion], length: int) -> Occurrences:
    counts = np.stack([layer.active for layer in layers], axis=1)
    total = counts.sum(axis=1)
    # From this batch alone: a resumed run meets the same shapes, so the same sums.
    size = occurrences_class(int(total.max(initial=0)), length)
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
    """The decoder rows that a batch needs: `table` [R, D] as stored, how its `tiles` lie, and where
    each occurrence writes."""

    table: Array
    tiles: Tiles
    writes: Writes


def read_rows(transcoder: Transcoder, occurrences: Occurrences) -> DecoderTable:
    """Read every needed decoder row once."""
    config, valid = transcoder.config, occurrences.valid
    width = np.array([config.targets(layer) for layer in range(config.num_layers)], np.int32)
    start = np.zeros(occurrences.layer.shape, np.int32)
    needed: list[np.ndarray] = []
    tiles = 0
    for layer in range(config.num_layers):
        here = valid & (occurrences.layer == layer)
        features, rank = np.unique(occurrences.feature[here], return_inverse=True)
        block, row = np.divmod(rank, TILE)
        start[here] = (tiles + block * width[layer]) * TILE + row
        needed.append(features)
        tiles += -(-len(features) // TILE) * int(width[layer])
    table, layout = _read_table(transcoder, needed, coarse(tiles, _LEAST_TILES, 2))
    first = occurrences.layer
    last = first + width[first] - 1
    arrays = (start, first, last, occurrences.position, np.full_like(start, TILE))
    writes = Writes(*(put(transcoder.mesh, array) for array in arrays))
    return DecoderTable(table, layout, writes)


class _Block(NamedTuple):
    """Up to TILE features of a layer, and the tiles that their rows fill."""

    layer: int
    features: np.ndarray
    tiles: slice


def _read_table(transcoder: Transcoder, needed: list[np.ndarray], size: int) -> tuple[Array, Tiles]:
    """Read some features' rows layer by layer into `size` tiles on the devices."""
    table = host_zeros((size, TILE, transcoder.config.d_model), transcoder.decoder_maps[0].dtype)
    target, block = np.zeros(size, np.int32), np.zeros(size, np.int32)
    blocks = _blocks(transcoder, needed)
    first, width = np.zeros((2, coarse(len(blocks), _LEAST_BLOCKS, 2)), np.int32)
    for index, one in enumerate(blocks):
        first[index], width[index] = one.tiles.start, one.tiles.stop - one.tiles.start
        target[one.tiles], block[one.tiles] = one.layer + np.arange(width[index]), index

    def read(one: _Block) -> None:
        rows = transcoder.rows(one.layer, one.features)
        table[one.tiles, : len(rows)] = rows.swapaxes(0, 1)

    _each(read, blocks)
    tiles = Tiles(*(copies(transcoder.mesh, array) for array in (target, block, first, width)))
    return _placed(transcoder, table, blocks[-1].tiles.stop if blocks else 0), tiles


def _blocks(transcoder: Transcoder, needed: list[np.ndarray]) -> list[_Block]:
    found: list[_Block] = []
    filled = 0
    for layer, features in enumerate(needed):
        for begin in range(0, len(features), TILE):
            end = filled + transcoder.config.targets(layer)
            found.append(_Block(layer, features[begin : begin + TILE], slice(filled, end)))
            filled = end
    return found


def _each(read: Callable[[_Block], None], blocks: list[_Block]) -> None:
    """Read every block, in threads on half of the cores; the others compute meanwhile."""
    threads = min(_MOST_THREADS, (os.cpu_count() or 1) // 2)
    if threads < 2:
        for block in blocks:
            read(block)
        return
    with ThreadPoolExecutor(threads, "decoder rows") as pool:
        for _ in pool.map(read, blocks):
            pass


def _placed(transcoder: Transcoder, table: np.ndarray, filled: int) -> Array:
    """Move a table to the devices, as [R, D]; one accelerator is sent only what is filled."""
    flat = table.reshape(-1, table.shape[2])
    if transcoder.mesh is not None or jax.default_backend() == "cpu":
        return place_weight(transcoder.mesh, "decoder.table", flat.shape, lambda at: flat[at])
    pieces = table.reshape(-1, _LEAST_TILES * TILE, table.shape[2])
    sent = [jax.device_put(piece) for piece in pieces[: -(-filled // _LEAST_TILES)]]
    rest = [jnp.zeros(pieces.shape[1:], pieces.dtype)] * (len(pieces) - len(sent))
    return _joined(sent + rest)


@program()
def _joined(pieces: list[Array]) -> Float[Array, "R D"]:
    return jnp.concatenate(pieces)
