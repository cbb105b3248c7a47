"""Exact effects: one evaluation for each of many sets of occurrences."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from pie_jax.kernels.writes import Writes, write


def removal_delta(
    table: Float[Array, "R D"],
    writes: Writes,
    delta: Float[Array, " N"],
    members: Int[Array, " K"],
    layers: int,
    length: int,
) -> Float[Array, "L T D"]:
    """Return the `mlp_delta` that removes a set of occurrences; -1 in `members` is padding.

    `delta` [N] is each occurrence's change of activation.
    """
    there = members >= 0
    index = jnp.where(there, members, 0)
    weight = jnp.where(there, -delta[index], 0.0)
    return write(table, writes.take(index), weight, layers, length)


def map_sets(
    evaluate: Callable[[Int[Array, " K"]], PyTree], sets: Int[Array, "S K"], chunk: int
) -> PyTree:
    """Return `evaluate` of every set, `chunk` of them side by side; S is a multiple of it."""
    count = sets.shape[0]
    if count % chunk:
        raise ValueError(f"{count} sets do not divide into chunks of {chunk}")
    parts = sets.reshape(count // chunk, chunk, sets.shape[1])
    results = jax.lax.map(jax.vmap(evaluate), parts)
    return jax.tree.map(lambda x: x.reshape(count, *x.shape[2:]), results)
