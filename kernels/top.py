"""TopK features: the k largest of a layer at each position, without a dense array of activations.

A TopK feature's activation depends on all others of its layer, so the k largest are kept while the
blocks of features go by; what is active is then known by name. Shapes: R runs, T positions,
D model, F features, k features that stay, C capacity.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pie_jax.kernels.bits import set_bits
from pie_jax.kernels.encode import ActiveUnion, preactivations
from pie_jax.kernels.slices import slice_rows

_BLOCK = 2048


def top_activations(
    weight: Float[Array, "F D"],
    bias: Float[Array, " F"],
    runs: Float[Array, "R T D"],
    k: int,
    relu: bool,
    block: int = _BLOCK,
) -> tuple[Float[Array, "R T k"], Int[Array, "R T k"]]:
    """Return the k largest activations at each position and their features; ValueError unless
    F >= k >= 1.

    With `relu` negative ones are 0, and so inactive. Of equal ones the lowest features stay.
    """
    features, block = weight.shape[0], min(block, weight.shape[0])
    if not 1 <= k <= features:
        raise ValueError(f"k {k} must be from 1 to the number of features, {features}")
    inputs = runs.astype(weight.dtype)

    def add(best: tuple[Array, Array], first: Array) -> tuple[tuple[Array, Array], None]:
        # The last block starts early where F does not divide; what it repeats is masked.
        start = jnp.minimum(first, features - block)
        pre = preactivations(inputs, *(slice_rows(array, start, block) for array in (weight, bias)))
        index = start + jnp.arange(block, dtype=jnp.int32)
        pre = jnp.where(index >= first, jax.nn.relu(pre) if relu else pre, -jnp.inf)
        values = jnp.concatenate([best[0], pre], -1)
        names = jnp.concatenate([best[1], jnp.broadcast_to(index, pre.shape)], -1)
        # Earlier features stand first, and of equal values the first is taken.
        values, at = jax.lax.top_k(values, k)
        return (values, jnp.take_along_axis(names, at, -1)), None

    shape = (*runs.shape[:2], k)
    none = (jnp.full(shape, -jnp.inf, jnp.float32), jnp.zeros(shape, jnp.int32))
    firsts = jnp.arange(0, features, block, dtype=jnp.int32)
    return jax.lax.scan(add, none, firsts)[0]


def top_union(
    weight: Float[Array, "F D"],
    bias: Float[Array, " F"],
    runs: Float[Array, "R T D"],
    real: Bool[Array, " T"],
    capacity: int,
    k: int,
    relu: bool,
    block: int = _BLOCK,
) -> ActiveUnion:
    """Return what `active_union` returns, of TopK features: the union over R runs of those that
    stay and are not 0, with every run's activations of them."""
    values, names = top_activations(weight, bias, runs, k, relu, block)
    count, length = runs.shape[:2]
    # By position: what all runs keep there, in order of features, then runs.
    active = jnp.moveaxis(values != 0, 0, 1)
    names = jnp.where(active, jnp.moveaxis(names, 0, 1), weight.shape[0]).reshape(length, -1)
    runs_of = jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32)[:, None], (length, count, k))
    values = jnp.moveaxis(values, 0, 1).reshape(length, -1)
    names, run, values = jax.lax.sort((names, runs_of.reshape(length, -1), values), num_keys=2)
    before = jnp.pad(names, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
    first = (names != before) & (names < weight.shape[0]) & real[:, None]
    bits = set_bits(first)
    slot = jnp.arange(capacity, dtype=jnp.int32)
    there = slot < bits.total
    position, column = bits.nth(slot)
    position = jnp.where(there, position, 0)
    column = jnp.where(there, jnp.minimum(column, names.shape[1] - 1), 0)
    feature = names[position, column]
    activation = jnp.zeros((count, capacity), jnp.float32)
    # A feature's entries stand side by side, one for each run that keeps it.
    for step in range(count):
        at = jnp.minimum(column + step, names.shape[1] - 1)
        own = (names[position, at] == feature) & there & (column + step < names.shape[1])
        mine = own & (run[position, at] == jnp.arange(count)[:, None])
        activation = jnp.where(mine, values[position, at], activation)
    return ActiveUnion(position, jnp.where(there, feature, 0), activation, bits.total)
