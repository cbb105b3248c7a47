"""Pallas kernels for TPUs, in which the program says which rows are copied on chip next.

Shapes: U row sets, W target layers, D model, N occurrences, P places (prompt, position),
X = W x D, K features of a block. They lower for TPUs without one; none was timed.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

# Occurrences of one step: as many rows as a tile of float32 has.
_GROUP = 8
_LANES = 128
# Row numbers live in scalar memory, which holds some hundred thousand.
_MOST = 8192
_MIB = 2**20


def gathered(
    rows: Float[Array, "U W D"],
    index: Int[Array, " N"],
    place: Int[Array, " N"],
    gradient: Float[Array, "P W D"],
    interpret: Any = False,
) -> Float[Array, " N"]:
    """Return <rows[index], gradient[place]> for N occurrences, in float32.

    A step copies eight row sets and eight gradients while the step before is multiplied.
    """
    count = index.shape[0]
    part = min(_MOST, pl.cdiv(count, _GROUP) * _GROUP)
    pad = (0, -count % part)
    parts = [jnp.pad(array, pad).reshape(-1, part) for array in (index, place)]
    call = partial(_gathered_part, rows, gradient, interpret)
    return jax.lax.map(lambda pair: call(*pair), tuple(parts)).ravel()[:count]


def _gathered_part(
    rows: Array, gradient: Array, interpret: Any, index: Array, place: Array
) -> Array:
    block = (1, *rows.shape[1:])
    specs = [pl.BlockSpec(block, partial(_nth_of_first, k=k)) for k in range(_GROUP)]
    specs += [pl.BlockSpec(block, partial(_nth_of_second, k=k)) for k in range(_GROUP)]
    in_flight = 2 * _GROUP * _padded(*block[1:]) * (rows.dtype.itemsize + 4)
    out = pl.pallas_call(
        _multiply_groups,
        out_shape=jax.ShapeDtypeStruct((index.shape[0], _LANES), jnp.float32),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(index.shape[0] // _GROUP,),
            in_specs=specs,
            out_specs=pl.BlockSpec((_GROUP, _LANES), lambda step, index, place: (step, 0)),
        ),
        compiler_params=_parameters(("arbitrary",), in_flight),
        interpret=interpret,
    )(index, place, *[rows] * _GROUP, *[gradient] * _GROUP)
    return out[:, 0]


def _nth_of_first(step: Any, index: Any, place: Any, k: int) -> tuple[Any, int, int]:
    return index[step * _GROUP + k], 0, 0


def _nth_of_second(step: Any, index: Any, place: Any, k: int) -> tuple[Any, int, int]:
    return place[step * _GROUP + k], 0, 0


def _multiply_groups(index: Any, place: Any, *refs: Any) -> None:
    """Each score fills a row of lanes, as a tile has no narrower form."""
    rows, gradients, out = refs[:_GROUP], refs[_GROUP:-1], refs[-1]
    for k in range(_GROUP):
        product = rows[k][0].astype(jnp.float32) * gradients[k][0]
        score = jnp.sum(product, axis=(0, 1), keepdims=True)
        out[k : k + 1, :] = jnp.broadcast_to(score, (1, _LANES))


def all_scores(
    decoder: Float[Array, "U X"],
    gradient: Float[Array, "P X"],
    block: int,
    interpret: Any = False,
) -> Float[Array, "U P"]:
    """Return decoder . gradient^T in float32; every decoder row is copied on chip once.

    `block` is a multiple of 16, the rows of a bfloat16 tile.
    """
    places = gradient.shape[0]
    gradient = jnp.pad(gradient, ((0, -places % _LANES), (0, 0)))
    height, columns = min(block, decoder.shape[0]), gradient.shape[0]
    wide = _divisor(decoder.shape[1], min(2048, 4 * _MIB // (4 * columns)))
    in_flight = 2 * wide * (height * decoder.dtype.itemsize + columns * 4) + 8 * height * columns
    scores = pl.pallas_call(
        _multiply_block,
        out_shape=jax.ShapeDtypeStruct((decoder.shape[0], columns), jnp.float32),
        grid=(pl.cdiv(decoder.shape[0], height), decoder.shape[1] // wide),
        in_specs=[
            pl.BlockSpec((height, wide), lambda i, x: (i, x)),
            pl.BlockSpec((columns, wide), lambda i, x: (0, x)),
        ],
        out_specs=pl.BlockSpec((height, columns), lambda i, x: (i, 0)),
        compiler_params=_parameters(("parallel", "arbitrary"), in_flight),
        interpret=interpret,
    )(decoder, gradient)
    return scores[:, :places]


def _multiply_block(decoder: Any, gradient: Any, out: Any) -> None:
    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        out[...] = jnp.zeros_like(out)

    out[...] += jax.lax.dot_general(
        decoder[...].astype(jnp.float32),
        gradient[...],
        (((1,), (1,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )


def _divisor(size: int, most: int) -> int:
    """Return the largest multiple of 128 that divides, up to `most` or 128, or the size."""
    fits = [wide for wide in range(_LANES, max(most, _LANES) + 1, _LANES) if size % wide == 0]
    return fits[-1] if fits else size


def _padded(rows: int, columns: int) -> int:
    return pl.cdiv(rows, 16) * 16 * pl.cdiv(columns, _LANES) * _LANES


def _parameters(semantics: tuple[Any, ...], in_flight: int) -> pltpu.CompilerParams:
    limit = max(16 * _MIB, in_flight + in_flight // 4)
    return pltpu.CompilerParams(dimension_semantics=semantics, vmem_limit_bytes=limit)
