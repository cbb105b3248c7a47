"""Both products over a batch's table of decoder rows, reading every row once.

The table lies in tiles of TILE rows that write to one target layer: the rows of TILE features of
one source layer make a block, which has a tile for each of their target layers. A tile is then one
matrix product for all positions, whatever occurrences there are.

Shapes: R = K x TILE rows, K tiles, P blocks, N occurrences, L layers, T positions,
D model.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pie_jax.kernels.slices import slice_rows
from pie_jax.kernels.writes import Writes

TILE = 128


class Tiles(NamedTuple):
    """How a table lies: `target` [K] the layer that each tile writes to, `block` [K] the block of
    features that it belongs to, `first` [P] each block's first tile; only the first `real` tiles
    are used."""

    target: Int[Array, " K"]
    block: Int[Array, " K"]
    first: Int[Array, " P"]
    real: Int[Array, ""]

    def slot(self, writes: Writes) -> Int[Array, " N"]:
        """Return the number of each occurrence's feature among all features of the table."""
        return self.block[writes.start // TILE] * TILE + writes.start % TILE


def tiled_gradient_times_write(
    table: Float[Array, "R D"], tiles: Tiles, writes: Writes, gradient: Float[Array, "L T D"]
) -> Float[Array, " N"]:
    """Return what `gradient_times_write` does; 0 at positions outside 0 .. T - 1."""
    gradient = gradient.astype(jnp.float32)

    def add(index: Array, scores: Array) -> Array:
        rows = slice_rows(table, index * TILE, TILE).astype(jnp.float32)
        product = _product("rd,td->rt", rows, gradient[tiles.target[index]])
        start = tiles.block[index] * TILE
        before = jax.lax.dynamic_slice_in_dim(scores, start, TILE)
        return jax.lax.dynamic_update_slice_in_dim(scores, before + product, start, 0)

    scores = jnp.zeros((tiles.first.shape[0] * TILE, gradient.shape[1]), jnp.float32)
    scores = jax.lax.fori_loop(0, tiles.real, add, scores)
    position, inside = _positions(writes, gradient.shape[1])
    return jnp.where(inside, scores[tiles.slot(writes), position], 0.0)


def tiled_write(
    table: Float[Array, "R D"],
    tiles: Tiles,
    writes: Writes,
    weight: Float[Array, " N"],
    layers: int,
    length: int,
) -> Float[Array, "L T D"]:
    """Return what `write` does.

    No two occurrences have the same feature and position, so that nothing depends on an order.
    """
    position, inside = _positions(writes, length)
    weights = jnp.zeros((tiles.first.shape[0] * TILE, length), jnp.float32)
    weights = weights.at[tiles.slot(writes), position].add(jnp.where(inside, weight, 0.0))

    def add(index: Array, out: Array) -> Array:
        rows = slice_rows(table, index * TILE, TILE).astype(jnp.float32)
        mine = jax.lax.dynamic_slice_in_dim(weights, tiles.block[index] * TILE, TILE)
        return out.at[tiles.target[index]].add(_product("rt,rd->td", mine, rows))

    zero = jnp.zeros((layers, length, table.shape[1]), jnp.float32)
    return jax.lax.fori_loop(0, tiles.real, add, zero)


def _positions(writes: Writes, length: int) -> tuple[Array, Array]:
    inside = (writes.position >= 0) & (writes.position < length)
    return jnp.where(inside, writes.position, 0), inside


def _product(spec: str, x: Array, y: Array) -> Array:
    return jnp.einsum(spec, x, y, precision=jax.lax.Precision.HIGHEST)
