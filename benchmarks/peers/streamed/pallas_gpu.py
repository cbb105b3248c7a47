"""Pallas kernels for NVIDIA GPUs, through Triton: one program for each occurrence or feature.

Shapes: U row sets, X = W x D numbers of a row set, N occurrences, P places (prompt, position).
They lower for GPUs without one; none was timed.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float, Int

# Numbers that a program multiplies at a time; Triton wants a power of two.
_PART = 1024
_WARPS = 4


def gathered(
    rows: Float[Array, "U X"],
    index: Int[Array, " N"],
    place: Int[Array, " N"],
    gradient: Float[Array, "P X"],
    interpret: Any = False,
) -> Float[Array, " N"]:
    """Return <rows[index], gradient[place]> for N occurrences, in float32."""

    def kernel(index: Any, place: Any, rows: Any, gradient: Any, out: Any) -> None:
        n = pl.program_id(0)
        out[n] = _dot(rows, index[n], gradient, place[n])

    return pl.pallas_call(
        kernel,
        out_shape=jax.ShapeDtypeStruct(index.shape, jnp.float32),
        grid=index.shape,
        compiler_params=plgpu.CompilerParams(num_warps=_WARPS),
        interpret=interpret,
    )(index, place, rows, gradient)


def streamed(
    decoder: Float[Array, "U X"],
    bounds: Int[Array, " V"],
    place: Int[Array, " N"],
    gradient: Float[Array, "P X"],
    interpret: Any = False,
) -> Float[Array, " N"]:
    """Return <decoder[u], gradient[place]> for the occurrences from bounds[u] to bounds[u + 1].

    `bounds` has V = U + 1 numbers. One program does all occurrences of a feature, so its row comes
    from the card's memory once and from a cache after that. What no feature holds is 0.
    """

    def kernel(bounds: Any, place: Any, zero: Any, decoder: Any, gradient: Any, out: Any) -> None:
        u = pl.program_id(0)

        def one(n: Array, _: None) -> None:
            out[n] = _dot(decoder, u, gradient, place[n])

        jax.lax.fori_loop(bounds[u], bounds[u + 1], one, None)

    return pl.pallas_call(
        kernel,
        out_shape=jax.ShapeDtypeStruct(place.shape, jnp.float32),
        grid=(decoder.shape[0],),
        input_output_aliases={2: 0},
        compiler_params=plgpu.CompilerParams(num_warps=_WARPS),
        interpret=interpret,
    )(bounds, place, jnp.zeros(place.shape, jnp.float32), decoder, gradient)


def _dot(rows: Any, row: Any, gradient: Any, place: Any) -> Array:
    size = rows.shape[1]

    def add(part: Array, total: Array) -> Array:
        at = pl.ds(part * _PART, _PART)
        mask = part * _PART + jnp.arange(_PART) < size
        a = plgpu.load(rows.at[row, at], mask=mask, other=0.0)
        b = plgpu.load(gradient.at[place, at], mask=mask, other=0.0)
        return total + a.astype(jnp.float32) * b.astype(jnp.float32)

    zero = jnp.zeros(_PART, jnp.float32)
    return jnp.sum(jax.lax.fori_loop(0, pl.cdiv(size, _PART), add, zero))
