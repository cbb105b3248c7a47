"""Both products over a batch's table of decoder rows, reading every row once.

The table lies in tiles of TILE rows that write to one target layer: the rows of TILE features of
one source layer make a block, which has a tile for each of their target layers. A tile is then one
matrix product for all positions, whatever occurrences there are. Blocks stand in the order of their
source layers, so that those with many target layers come first.

Shapes: R = K x TILE rows, K tiles, P blocks, G blocks of a group, N occurrences, L layers,
T positions, D model.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pie_jax.kernels.primals import is_zero, values
from pie_jax.kernels.slices import slice_rows, take_rows
from pie_jax.kernels.writes import Writes

TILE = 128
_INSTEAD = "gradient_times_write and write"
# Blocks whose tiles are multiplied side by side: on a CPU one stays in its caches, elsewhere each
# step of a loop costs as much as reading dozens.
_SIDE_BY_SIDE = 32


class Tiles(NamedTuple):
    """How a table lies: `target` [K] the layer that each tile writes to, `block` [K] the block of
    features that it belongs to; `first` [P] each block's first tile and `width` [P] how many it
    has, never more than the block before, 0 for padding."""

    target: Int[Array, " K"]
    block: Int[Array, " K"]
    first: Int[Array, " P"]
    width: Int[Array, " P"]

    def slot(self, writes: Writes) -> Int[Array, " N"]:
        """Return the number of each occurrence's feature among all features of the table."""
        return self.block[writes.start // TILE] * TILE + writes.start % TILE


class _Group(NamedTuple):
    """The tiles of G blocks from `start` on for one target layer each: `rows` [G, TILE, D] and
    `target` [G]; `real` [G] says which blocks have one."""

    start: Array
    rows: Array
    target: Array
    real: Array


def tiled_gradient_times_write(
    table: Float[Array, "R D"],
    tiles: Tiles,
    writes: Writes,
    gradient: Float[Array, "L T D"],
    side_by_side: int | None = None,
) -> Float[Array, " N"]:
    """Return what `gradient_times_write` does; 0 at positions outside 0 .. T - 1.

    `side_by_side` blocks make a step, which has to divide P; None chooses by the device. It can be
    differentiated by the gradient; by the table, `gradient_times_write` can.
    """
    return _scores(table, tiles, writes, gradient, side_by_side)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _scores(
    table: Array, tiles: Tiles, writes: Writes, gradient: Array, side_by_side: int | None
) -> Float[Array, " N"]:
    gradient = gradient.astype(jnp.float32)

    def add(group: _Group, scores: Array) -> Array:
        product = _product("grd,gtd->grt", group.rows, gradient[group.target])
        product = jnp.where(group.real[:, None, None], product, 0.0)
        before = jax.lax.dynamic_slice_in_dim(scores, group.start, len(product))
        return jax.lax.dynamic_update_slice_in_dim(scores, before + product, group.start, 0)

    zero = jnp.zeros((len(tiles.first), TILE, gradient.shape[1]), jnp.float32)
    scores = _over_groups(add, zero, table, tiles, side_by_side)
    position, inside = _positions(writes, gradient.shape[1])
    return jnp.where(inside, scores.reshape(-1, scores.shape[2])[tiles.slot(writes), position], 0.0)


def tiled_write(
    table: Float[Array, "R D"],
    tiles: Tiles,
    writes: Writes,
    weight: Float[Array, " N"],
    layers: int,
    length: int,
    side_by_side: int | None = None,
) -> Float[Array, "L T D"]:
    """Return what `write` does.

    No two occurrences have the same feature and position, so that nothing depends on an order. It
    can be differentiated by the weights; by the table, `write` can.
    """
    return _written(table, tiles, writes, weight, (layers, length), side_by_side)


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _written(
    table: Array,
    tiles: Tiles,
    writes: Writes,
    weight: Array,
    shape: tuple[int, int],
    side_by_side: int | None,
) -> Float[Array, "L T D"]:
    layers, length = shape
    position, inside = _positions(writes, length)
    weights = jnp.zeros((len(tiles.first) * TILE, length), jnp.float32)
    weights = weights.at[tiles.slot(writes), position].add(jnp.where(inside, weight, 0.0))
    weights = weights.reshape(-1, TILE, length)

    def add(group: _Group, out: Array) -> Array:
        mine = jax.lax.dynamic_slice_in_dim(weights, group.start, len(group.real))
        mine = jnp.where(group.real[:, None, None], mine, 0.0)
        written = _product("grt,grd->gtd", mine, group.rows)
        if len(group.real) == 1:
            return out.at[group.target[0]].add(written[0])
        # Blocks may write to the same layer: a product adds them up in one order.
        at = jax.nn.one_hot(group.target, layers, dtype=jnp.float32, axis=0)
        return out + _product("lg,gtd->ltd", at, written)

    zero = jnp.zeros((layers, length, table.shape[1]), jnp.float32)
    return _over_groups(add, zero, table, tiles, side_by_side)


# Each product is linear, and the other is its transpose; JAX cannot turn their loops round.


def _scores_forward(table: Any, tiles: Any, writes: Any, gradient: Any, side: int | None) -> Any:
    where = values(table, tiles, writes, instead=_INSTEAD)
    return _scores(*where, gradient.value, side), (where, gradient.value)


def _scores_back(side: int | None, kept: Any, change: Any) -> Any:
    where, gradient = kept
    if is_zero(change):
        return None, None, None, None
    back = _written(*where, change, gradient.shape[:2], side)
    return None, None, None, back.astype(gradient.dtype)


def _written_forward(
    table: Any, tiles: Any, writes: Any, weight: Any, shape: tuple[int, int], side: int | None
) -> Any:
    where = values(table, tiles, writes, instead=_INSTEAD)
    return _written(*where, weight.value, shape, side), (where, weight.value)


def _written_back(shape: tuple[int, int], side: int | None, kept: Any, change: Any) -> Any:
    where, weight = kept
    if is_zero(change):
        return None, None, None, None
    return None, None, None, _scores(*where, change, side).astype(weight.dtype)


_scores.defvjp(_scores_forward, _scores_back, symbolic_zeros=True)
_written.defvjp(_written_forward, _written_back, symbolic_zeros=True)


def _over_groups(
    add: Callable[[_Group, Array], Array],
    start: Array,
    table: Array,
    tiles: Tiles,
    side_by_side: int | None,
) -> Array:
    """Return `add(group, result so far)` over all tiles, those of each block in their order."""
    size = side_by_side or (1 if jax.default_backend() == "cpu" else _SIDE_BY_SIDE)
    blocks = len(tiles.first)
    if blocks % size:
        raise ValueError(f"{blocks} blocks do not divide into groups of {size}")
    whole = table.reshape(-1, TILE, table.shape[1])

    def group(index: Array, result: Array) -> Array:
        begin = index * size
        first = jax.lax.dynamic_slice_in_dim(tiles.first, begin, size)
        width = jax.lax.dynamic_slice_in_dim(tiles.width, begin, size)

        def target(step: Array, result: Array) -> Array:
            real = step < width
            tile = jnp.where(real, first + step, 0)
            rows = slice_rows(whole, tile[0], 1) if size == 1 else take_rows(whole, tile)
            return add(_Group(begin, rows.astype(jnp.float32), tiles.target[tile], real), result)

        # The first block of a group is its widest.
        return jax.lax.fori_loop(0, width[0], target, result)

    return jax.lax.fori_loop(0, -(-(tiles.width > 0).sum() // size), group, start)


def _positions(writes: Writes, length: int) -> tuple[Array, Array]:
    inside = (writes.position >= 0) & (writes.position < length)
    return jnp.where(inside, writes.position, 0), inside


def _product(spec: str, x: Array, y: Array) -> Any:
    return jnp.einsum(spec, x, y, precision=jax.lax.Precision.HIGHEST)
