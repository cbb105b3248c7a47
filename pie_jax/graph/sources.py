"""What is active on a prompt, what it writes, and what its encoders read.

Shapes: N active features, S selected ones, L layers, T positions, D model, R table rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pie_jax.devices.programs import program
from pie_jax.devices.shapes import coarse, multiple
from pie_jax.graph.frozen import Point, Sources, errors
from pie_jax.kernels import Writes
from pie_jax.kernels.slices import take_rows
from pie_jax.prune.batch.occurrences import OccurrenceFinder, read_rows
from pie_jax.transcoders.store import Transcoder

_LEAST_FEATURES, _LEAST_ROWS = 64, 64
_CHUNKS = (8, 128)
# Of all active features classes are coarse up to here, so that prompts share programs.
_COARSE = 8192
# Rows that are multiplied side by side: on a CPU they stay in its caches.
_ROW_BYTES = {"cpu": 16 << 20}
_FASTER = 256 << 20


@dataclass(frozen=True)
class Active:
    """The active features of a prompt, [N] each, by layer, position and feature, with what they
    write by as `activation`; the `table` of their decoder rows [R, D] and where in it their
    `writes` are [N]; the MLPs' `error` [L, T, D] and the affine `skip` [L, D, D] (out, in), if
    there is one. `size` is the class of N.

    Beside a second prompt, features are active in either, `corrupted` are their activations in
    that one, and `activation` and `error` are differences; without one `corrupted` is 0."""

    layer: np.ndarray
    position: np.ndarray
    feature: np.ndarray
    activation: np.ndarray
    corrupted: np.ndarray
    table: Array
    writes: Writes
    error: Array
    skip: Array | None
    size: int

    @property
    def count(self) -> int:
        """Return N."""
        return len(self.layer)


def read_active(
    transcoder: Transcoder,
    finder: OccurrenceFinder,
    at: Point,
    length: int,
    other: Point | None = None,
) -> Active:
    """Encode a prompt of `length` tokens, and an `other` one to be taken away from it, and read
    every needed decoder row once."""
    second = None if other is None else other.inputs[None, None]
    found = finder.find(at.inputs[None], second, np.array([length], np.int32))
    rows = read_rows(transcoder, found)
    one: Writes = jax.tree.map(lambda array: array[0], rows.writes)
    skip = (
        jnp.stack([transcoder.skip(i) for i in range(len(transcoder.skips))])
        if (transcoder.config.has_skip)
        else None
    )

    def error_of(run: Point, activation: np.ndarray) -> Array:
        return errors(
            run, np.int32(length), rows.table, rows.tiles, one, activation, transcoder.bias, skip
        )

    error = error_of(at, found.clean[0])
    if other is not None:
        error = error - error_of(other, found.corrupted[0, 0])
    real = slice(0, int(found.count[0]))
    return Active(
        found.layer[0, real],
        found.position[0, real],
        found.feature[0, real],
        found.delta[0, 0, real],
        found.corrupted[0, 0, real],
        rows.table,
        jax.tree.map(lambda array: np.asarray(array)[real], one),
        error,
        skip,
        found.layer.shape[1],
    )


def in_chunks(
    active: Active, members: Int[np.ndarray, " S"], length: int
) -> tuple[Sources, Int[np.ndarray, " S"]]:
    """Return some features in chunks of one position each, and the slot of each of them.

    The sizes follow from `length` T and the classes of S and N alone.
    """
    size = min(coarse(len(members), _LEAST_FEATURES, 2), active.size)
    if len(members) == active.count:
        size = min(coarse(len(members), _COARSE, 2), active.size)
    each = min(max(coarse(size // length, _CHUNKS[0], 2), _CHUNKS[0]), _CHUNKS[1])
    chunks = multiple(size, each) // each + length
    room = _ROW_BYTES.get(jax.default_backend(), _FASTER)
    beside = max(1, min(room // (4 * each * active.table.shape[1]), chunks))
    groups = -(-chunks // beside)
    position = active.position[members]
    order = np.argsort(position, kind="stable")
    counts = np.bincount(position, minlength=length)
    filled = -(-counts // each)
    first = np.cumsum(filled) - filled
    rank = np.arange(len(order)) - (np.cumsum(counts) - counts)[position[order]]
    slot = np.empty(len(members), np.int64)
    slot[order] = first[position[order]] * each + rank

    def spread(values: np.ndarray, empty: int | float) -> Array:
        out = np.full(groups * beside * each, empty, values.dtype)
        out[slot] = values
        return jnp.asarray(out.reshape(groups, -1))

    here: Any = jax.tree.map(lambda array: array[members], active.writes)
    # Empty slots write from layer 1 to layer 0.
    writes = Writes(
        spread(here.start, 0),
        spread(here.first, 1),
        spread(here.last, 0),
        spread(here.position, 0),
        spread(here.stride, 1),
    )
    where = np.zeros(groups * beside, np.int32)
    where[: filled.sum()] = np.repeat(np.arange(length, dtype=np.int32), filled)
    activation = spread(active.activation[members], 0.0)
    used = jnp.int32(-(-int(filled.sum()) // beside))
    return Sources(writes, activation, jnp.asarray(where.reshape(groups, -1)), used), slot


def encoder_rows(
    transcoder: Transcoder, layer: Int[np.ndarray, " S"], feature: Int[np.ndarray, " S"]
) -> Float[np.ndarray, "S D"]:
    """Return what features read, in float32: of encoders on disk, these rows alone are read."""
    out = np.empty((len(layer), transcoder.config.d_model), np.float32)
    counts = np.bincount(layer, minlength=transcoder.config.num_layers)
    padded = np.zeros(coarse(int(counts.max(initial=0)), _LEAST_ROWS), np.int32)
    for index in np.flatnonzero(counts):
        here = layer == index
        if transcoder.resident or transcoder.restore_encoder is not None:
            padded[: counts[index]] = feature[here]
            weight = transcoder.encoder(int(index)).weight[...]
            out[here] = np.asarray(_taken(weight, padded))[: counts[index]]
        else:
            out[here] = transcoder.encoder_arrays[int(index)].weight[feature[here]]
    return out


@program()
def _taken(weight: Float[Array, "F D"], index: Int[Array, " n"]) -> Float[Array, "n D"]:
    return take_rows(weight, index).astype(jnp.float32)
