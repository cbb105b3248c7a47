"""Parts of large arrays without a copy of the whole.

XLA for CPUs has no slice or gather of bfloat16: it converts the whole array to float32 first, and
keeps that. The same bits as integers are sliced as they are.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Shaped


def slice_rows(array: Shaped[Array, "R *rest"], start: Int[Array, ""], size: int) -> Array:
    """Return `size` rows of an array [R, ...] from `start` on."""
    bits, start = _bits(array, start)
    return _numbers(jax.lax.dynamic_slice_in_dim(bits, start, size), array)


def take_rows(array: Shaped[Array, "R *rest"], index: Int[Array, "..."]) -> Array:
    """Return some rows of an array [R, ...]."""
    bits, index = _bits(array, index)
    return _numbers(bits[index], array)


def _bits(array: Array, index: Array) -> tuple[Array, Array]:
    if array.dtype != jnp.bfloat16:
        return array, index
    # Tied to the index, or XLA makes the integers of the whole array once, ahead of a loop.
    array, index = jax.lax.optimization_barrier((array, index))
    return jax.lax.bitcast_convert_type(array, jnp.uint16), index


def _numbers(part: Array, array: Array) -> Array:
    if array.dtype != jnp.bfloat16:
        return part
    return jax.lax.bitcast_convert_type(part, jnp.bfloat16)
