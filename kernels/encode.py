"""Active features of several runs, encoded block by block without a dense array of activations.

Shapes: R runs, T positions, D model, F features, K features of a block, C capacity.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pie_jax.kernels.bits import SetBits, set_bits
from pie_jax.kernels.slices import slice_rows

# Features encoded at once: for a few prompts the block's activations stay in the cache of a CPU.
# Elsewhere a step of a loop costs as much as thousands of features: as many as fit these bytes.
_BLOCK = 2048
_BLOCK_BYTES = 1 << 28


class ActiveUnion(NamedTuple):
    """The (position, feature) pairs active in any run, sorted by position, then feature.

    Entries from `count` on are zero. More than C of them do not fit: if `count` > C, the list is
    not complete, and the caller asks again with a larger capacity.
    """

    position: Int[Array, "*B C"]
    feature: Int[Array, "*B C"]
    activation: Float[Array, "*B R C"]
    count: Int[Array, "*B"]  # type: ignore[assignment]  # a tuple has a method of that name


def block_size(rows: int, features: int) -> int:
    """Return how many of F features are encoded at once for so many rows (runs x positions of the
    whole batch) on the device at hand."""
    if jax.default_backend() == "cpu":
        return min(_BLOCK, features)
    return max(_BLOCK, min(features, _BLOCK_BYTES // (4 * rows)))


def active_union(
    weight: Float[Array, "F D"],
    bias: Float[Array, " F"],
    threshold: Float[Array, " F"] | None,
    runs: Float[Array, "R T D"],
    real: Bool[Array, " T"],
    capacity: int,
    block: int = _BLOCK,
) -> ActiveUnion:
    """Return the union over R runs of the features active at `real` positions, and every run's
    activations of them; ValueError if `capacity` or `block` is below 1.

    A feature is active where its activation, ReLU or with `threshold` [F] JumpReLU of
    weight . x + bias in float32, is above 0. Of the dense activations only R x T x `block` exist
    at a time. For a batch, vmap over `runs` and `real` alone: a block is then one product
    [B R T, D] x [D, K].
    """
    if capacity < 1 or block < 1:
        raise ValueError(f"capacity {capacity} and block {block} must be at least 1")
    features, block = weight.shape[0], min(block, weight.shape[0])
    encoder = (weight, bias) if threshold is None else (weight, bias, threshold)
    inputs = runs.astype(weight.dtype)

    def add(found: ActiveUnion, first: Array) -> tuple[ActiveUnion, Array]:
        # The last block starts early where F does not divide; what it repeats is masked.
        start = jnp.minimum(first, features - block)
        part = (slice_rows(array, start, block) for array in encoder)
        new = start + jnp.arange(block, dtype=jnp.int32) >= first
        activation = _activations(inputs, *part)
        bits = set_bits((activation > 0).any(0) & real[:, None] & new)
        return _append(found, bits, activation, start), bits.per_row

    none = jnp.zeros(capacity, jnp.int32)
    activation = jnp.zeros((runs.shape[0], capacity), jnp.float32)
    empty = ActiveUnion(none, none, activation, jnp.int32(0))
    firsts = jnp.arange(0, features, block, dtype=jnp.int32)
    return _by_position(*jax.lax.scan(add, empty, firsts))


def _activations(
    inputs: Array, weight: Array, bias: Array, threshold: Array | None = None
) -> Float[Array, "R T K"]:
    pre = preactivations(inputs, weight, bias)
    if threshold is None:
        return jax.nn.relu(pre)
    return jnp.where(pre > threshold.astype(jnp.float32), pre, 0.0)


def preactivations(inputs: Array, weight: Array, bias: Array) -> Float[Array, "R T K"]:
    """Return weight . x + bias of K features in float32, for inputs [R, T, D]."""
    product = jnp.einsum(
        "rtd,kd->rtk",
        inputs,
        weight,
        preferred_element_type=jnp.float32,
        precision=jax.lax.Precision.HIGHEST if weight.dtype == jnp.float32 else None,
    )
    return product + bias.astype(jnp.float32)


def _append(found: ActiveUnion, bits: SetBits, activation: Array, start: Array) -> ActiveUnion:
    """Put a block's active pairs behind those that were found before."""
    index = jnp.arange(found.feature.shape[0], dtype=jnp.int32) - found.count
    here = (index >= 0) & (index < bits.total)
    position, column = bits.nth(index)
    column = jnp.minimum(column, activation.shape[2] - 1)
    return ActiveUnion(
        jnp.where(here, position, found.position),
        jnp.where(here, start + column, found.feature),
        jnp.where(here, activation[:, position, column], found.activation),
        found.count + bits.total,
    )


def _by_position(found: ActiveUnion, counts: Int[Array, "S T"]) -> ActiveUnion:
    """Put the pairs of S blocks, each sorted, in the order of positions, as `counts` says where
    each block's pairs of a position stand: no sort, and no scatter."""
    ends_by_block = jnp.cumsum(counts.ravel()).reshape(counts.shape)
    begins = (ends_by_block - counts).T.ravel()
    sizes = counts.T.ravel()
    ends = jnp.cumsum(sizes)
    slot = jnp.arange(found.feature.shape[0], dtype=jnp.int32)
    there = slot < found.count
    stretch = jnp.searchsorted(ends, slot, side="right")
    stretch = jnp.minimum(stretch, ends.size - 1)
    source = begins[stretch] + slot - (ends - sizes)[stretch]
    source = jnp.where(there, source, 0)

    def sort(array: Array) -> Array:
        return jnp.where(there, array[..., source], 0)

    position, feature, activation = map(sort, found[:3])
    return ActiveUnion(position, feature, activation, found.count)
