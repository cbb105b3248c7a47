"""The gradient-times-write product of a large batch, reading the whole decoder once.

Shapes: N occurrences of one source layer in the whole batch, B batch, T positions, D model,
F features, W target layers of the source layer, K features of a block.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from benchmarks.peers.streamed.choice import whole_block
from pie_jax.kernels.primals import is_zero, values
from pie_jax.kernels.slices import slice_rows

_BLOCK = 256
# Occurrences whose scores are in flight at once.
_CHUNK = 128


class ByFeature(NamedTuple):
    """Occurrences of one source layer in the order of their features.

    `order` [N] is each one's place before sorting; `feature`, `prompt`, `position` [N]. Invalid
    ones are last; their feature is F.
    """

    order: Int[Array, " N"]
    feature: Int[Array, " N"]
    prompt: Int[Array, " N"]
    position: Int[Array, " N"]

    def restore(self, score: Float[Array, " N"]) -> Float[Array, " N"]:
        """Return scores in the order of the occurrences before sorting."""
        return jnp.zeros_like(score).at[self.order].set(score, unique_indices=True)


def by_feature(
    feature: Int[Array, " N"],
    prompt: Int[Array, " N"],
    position: Int[Array, " N"],
    valid: Bool[Array, " N"],
    features: int,
) -> ByFeature:
    """Sort the occurrences of one source layer [N] by feature, invalid ones last."""
    order = jnp.arange(feature.shape[0], dtype=jnp.int32)
    key = jnp.where(valid, feature, features).astype(jnp.int32)
    arrays = (key, order, prompt.astype(jnp.int32), position.astype(jnp.int32))
    key, order, prompt, position = jax.lax.sort(arrays, num_keys=1)
    return ByFeature(order, key, prompt, position)


def columns_of(gradient: Float[Array, "B W T D"]) -> Float[Array, "BT WD"]:
    """Return float32 gradients with one row for each prompt and position, as decoder rows lie."""
    batch, width, length, model = gradient.shape
    moved = gradient.astype(jnp.float32).transpose(0, 2, 1, 3)
    return moved.reshape(batch * length, width * model)


def streamed_gradient_times_write(
    decoder: Float[Array, "F W D"],
    occurrences: ByFeature,
    gradient: Float[Array, "B W T D"],
    block: int = _BLOCK,
    whole: bool | None = None,
) -> Float[Array, " N"]:
    """Return sum over target layers w of <decoder[feature, w], gradient[prompt, w, position]>, in
    the order of the occurrences before sorting, and 0 where invalid; ValueError if `block` is
    below 1.

    Reads the decoder once, `block` features at a time, and each row for all its occurrences; sums
    in float32. `whole` multiplies a block with all B x T gradients at once and picks the scores;
    otherwise every occurrence takes its own row. None chooses by `choice.whole_block`. It can be
    differentiated by the gradient alone.
    """
    if block < 1:
        raise ValueError(f"block {block} must be at least 1")
    return _streamed(decoder, occurrences, gradient, block, whole)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _streamed(
    decoder: Array, occurrences: ByFeature, gradient: Array, block: int, whole: bool | None
) -> Float[Array, " N"]:
    features, block = decoder.shape[0], min(block, decoder.shape[0])
    places = columns_of(gradient)
    if whole is None:
        whole = whole_block(occurrences.order.shape[0], features, places.shape[0])
    chunks = _chunks(occurrences, features, gradient.shape[2])
    starts = jnp.arange(0, features, block, dtype=jnp.int32)
    bounds = jnp.searchsorted(chunks.feature, jnp.append(starts, features)).astype(jnp.int32)

    def add(total: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, None]:
        first, low, high = inputs
        # The last block starts early where F does not divide.
        start = jnp.minimum(first, features - block)
        rows = slice_rows(decoder, start, block).reshape(block, -1)
        scores = _scores(rows.astype(jnp.float32), places, whole)
        return _fill(total, chunks, scores, start, low, high), None

    zero = jnp.zeros(chunks.feature.shape, jnp.float32)
    total = jax.lax.scan(add, zero, (starts, bounds[:-1], bounds[1:]))[0]
    return occurrences.restore(total[: occurrences.order.shape[0]])


def _forward(decoder: Any, occurrences: Any, gradient: Any, block: int, whole: bool | None) -> Any:
    where = values(decoder, occurrences, instead="gradient_times_write")
    return _streamed(*where, gradient.value, block, whole), (*where, gradient.value)


def _back(block: int, whole: bool | None, kept: Any, change: Any) -> Any:
    """Return the transpose: each occurrence's rows times its score, at its prompt and position."""
    decoder, of, gradient = kept
    if is_zero(change):
        return None, None, None
    batch, width, length, model = gradient.shape
    score = jnp.where(of.feature < decoder.shape[0], change[of.order], 0.0)
    row, place = jnp.minimum(of.feature, decoder.shape[0] - 1), of.prompt * length + of.position

    def layer(_: None, w: Array) -> tuple[None, Array]:
        rows = jax.lax.dynamic_index_in_dim(decoder, w, 1, keepdims=False)[row]
        zero = jnp.zeros((batch * length, model), jnp.float32)
        return None, zero.at[place].add(score[:, None] * rows.astype(jnp.float32))

    written = jax.lax.scan(layer, None, jnp.arange(width))[1].reshape(width, batch, length, model)
    return None, None, written.swapaxes(0, 1).astype(gradient.dtype)


_streamed.defvjp(_forward, _back, symbolic_zeros=True)


class _Chunks(NamedTuple):
    """Sorted features and rows of the gradients, padded to whole chunks."""

    feature: Int[Array, " N"]
    place: Int[Array, " N"]

    def at(self, start: Array) -> _Chunks:
        return _Chunks(*(jax.lax.dynamic_slice_in_dim(array, start, _CHUNK) for array in self))


def _chunks(occurrences: ByFeature, features: int, length: int) -> _Chunks:
    pad = (0, -occurrences.order.shape[0] % _CHUNK)
    place = occurrences.prompt * length + occurrences.position
    return _Chunks(jnp.pad(occurrences.feature, pad, constant_values=features), jnp.pad(place, pad))


def _scores(rows: Array, places: Array, whole: bool) -> Callable[[Array, Array], Array]:
    """Return how to get the scores of some (row of the block, place)."""
    if not whole:
        return lambda row, place: (rows[row] * places[place]).sum(-1)
    product = jnp.einsum("kx,px->kp", rows, places, precision=jax.lax.Precision.HIGHEST)
    return lambda row, place: product[row, place]


def _fill(
    total: Array,
    chunks: _Chunks,
    scores: Callable[[Array, Array], Array],
    start: Array,
    low: Array,
    high: Array,
) -> Array:
    """Set the scores of the occurrences from `low` to `high`, whose features are the block's."""

    def chunk(index: Array, total: Array) -> Array:
        at = index * _CHUNK
        feature, place = chunks.at(at)
        # A chunk may reach into the blocks before and after; indices above are clamped.
        row = jnp.maximum(feature - start, 0)
        here = at + jnp.arange(_CHUNK, dtype=jnp.int32)
        before = jax.lax.dynamic_slice_in_dim(total, at, _CHUNK)
        after = jnp.where((here >= low) & (here < high), scores(row, place), before)
        return jax.lax.dynamic_update_slice_in_dim(total, after, at, 0)

    return jax.lax.fori_loop(low // _CHUNK, -(-high // _CHUNK), chunk, total)
