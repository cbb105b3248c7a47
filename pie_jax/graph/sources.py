"""What is active on prompts, what it writes, and what its encoders read.

Shapes: M prompts, N active features, S selected ones, L layers, T positions, D model, R table rows.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from pie_jax.prune.batch.occurrences import OccurrenceFinder, Occurrences, read_rows
from pie_jax.transcoders.store import Transcoder

_LEAST_FEATURES, _LEAST_ROWS = 64, 64
_CHUNKS = (8, 128)
# Of all active features classes are coarse up to here, so that prompts share programs.
_COARSE = 8192
# Rows that are multiplied side by side: on a CPU they stay in its caches.
_ROW_BYTES = {"cpu": 1 << 19}
_FASTER = 256 << 20


@dataclass(frozen=True)
class Active:
    """The active features of a prompt, [N] each, by layer, position and feature, with what they
    write by as `activation`, and where in the table of decoder rows their `writes` are [N].

    Beside a second prompt, features are active in either, `corrupted` are their activations in
    that one, and `activation` is the difference; without one `corrupted` is 0."""

    layer: np.ndarray
    position: np.ndarray
    feature: np.ndarray
    activation: np.ndarray
    corrupted: np.ndarray
    writes: Writes

    @property
    def count(self) -> int:
        """Return N."""
        return len(self.layer)


@dataclass(frozen=True)
class Written:
    """What is written in M prompts: their `active` features, the `table` of all decoder rows
    [R, D], the MLPs' `error` [M, L, T, D] and the affine `skip` [L, D, D] (out, in), if there is
    one. `size` is the class of the largest N. Beside second prompts errors are differences too."""

    active: tuple[Active, ...]
    table: Array
    error: Array
    skip: Array | None
    size: int


def read_written(
    transcoder: Transcoder,
    finder: OccurrenceFinder,
    at: Point,
    lengths: Int[np.ndarray, " M"],
    other: Point | None,
    skip: Array | None,
) -> Written:
    """Encode prompts of so many tokens, and `other` ones to be taken away from them, and read every
    needed decoder row once."""
    second = None if other is None else other.inputs[:, None]
    found = finder.find(at.inputs, second, lengths)
    rows = read_rows(transcoder, found)

    def error_of(run: Point, activation: np.ndarray) -> Array:
        return errors(
            run, lengths, rows.table, rows.tiles, rows.writes, activation, transcoder.bias, skip
        )

    error = error_of(at, found.clean)
    if other is not None:
        error = error - error_of(other, found.corrupted[:, 0])
    writes: Writes = jax.tree.map(np.asarray, rows.writes)
    return Written(
        tuple(_one(found, writes, prompt) for prompt in range(len(lengths))),
        rows.table,
        error,
        skip,
        found.layer.shape[1],
    )


def _one(found: Occurrences, writes: Writes, prompt: int) -> Active:
    real = slice(0, int(found.count[prompt]))
    return Active(
        found.layer[prompt, real],
        found.position[prompt, real],
        found.feature[prompt, real],
        found.clean[prompt, real] - found.corrupted[prompt, 0, real],
        found.corrupted[prompt, 0, real],
        jax.tree.map(lambda array: array[prompt, real], writes),
    )


def in_chunks(
    written: Written, members: Sequence[Int[np.ndarray, " S"]], length: int
) -> tuple[Sources, list[Int[np.ndarray, " S"]]]:
    """Return some features of each prompt in chunks of one position each, and their slots.

    The sizes follow from `length` T and the classes of the largest S and N alone.
    """
    most = max(map(len, members))
    both = zip(members, written.active, strict=True)
    least = _COARSE if all(len(one) in (0, of.count) for one, of in both) else _LEAST_FEATURES
    size = min(coarse(most, least, 2), written.size)
    each = min(max(coarse(size // length, _CHUNKS[0], 2), _CHUNKS[0]), _CHUNKS[1])
    chunks = multiple(size, each) // each + length
    room = _ROW_BYTES.get(jax.default_backend(), _FASTER)
    row = 4 * each * len(members) * written.table.shape[1]
    beside = max(1, min(room // row, chunks))
    shape = (-(-chunks // beside), beside, each)
    laid = [
        _laid(one, here, length, shape) for one, here in zip(written.active, members, strict=True)
    ]
    used = max(used for _, _, used in laid)
    stacked: Any = jax.tree.map(lambda *each: jnp.asarray(np.stack(each)), *(a for a, _, _ in laid))
    writes, activation, position = stacked
    sources = Sources(writes, activation, position, jnp.int32(used))
    return sources, [slot for _, slot, _ in laid]


def _laid(
    active: Active, members: Int[np.ndarray, " S"], length: int, shape: tuple[int, int, int]
) -> tuple[tuple[Writes, np.ndarray, np.ndarray], Int[np.ndarray, " S"], int]:
    """Return the writes, activations and positions of a prompt's chunks, its slots, and how many
    groups it fills."""
    groups, beside, each = shape
    position = active.position[members]
    order = np.argsort(position, kind="stable")
    counts = np.bincount(position, minlength=length)
    filled = -(-counts // each)
    first = np.cumsum(filled) - filled
    rank = np.arange(len(order)) - (np.cumsum(counts) - counts)[position[order]]
    slot = np.empty(len(members), np.int64)
    slot[order] = first[position[order]] * each + rank

    def spread(values: np.ndarray, empty: int | float) -> Any:
        out = np.full(groups * beside * each, empty, values.dtype)
        out[slot] = values
        return out.reshape(groups, -1)

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
    laid = writes, spread(active.activation[members], 0.0), where.reshape(groups, -1)
    return laid, slot, -(-int(filled.sum()) // beside)


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
