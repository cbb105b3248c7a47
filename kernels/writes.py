"""Writes of occurrences to the MLP outputs, from a packed table of decoder rows.

Shapes: N occurrences, L layers, T positions, D model, R rows of the table.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pie_jax.kernels.slices import take_rows

# Occurrences whose rows are in flight at once; bounds the memory of `write` to CHUNK x D.
_CHUNK = 4096
_FEW = 4


class Writes(NamedTuple):
    """Where each of N occurrences writes: table row `start + stride x (t - first)` for layer t.

    `start` [N] row of its first target layer; `first` and `last` [N] its target layers;
    `position` [N]; `stride` [N] rows from one target layer to the next, 1 where None.
    """

    start: Int[Array, "*N"]
    first: Int[Array, "*N"]
    last: Int[Array, "*N"]
    position: Int[Array, "*N"]
    stride: Int[Array, "*N"] | None = None

    def take(self, index: Int[Array, "..."]) -> Writes:
        """Return the writes of some occurrences."""
        return jax.tree.map(lambda array: array[index], self)

    def rows(self, table: Float[Array, "R D"], layer: Int[Array, ""]) -> Float[Array, "N D"]:
        """Return every occurrence's row for one target layer in float32, 0 outside its targets."""
        inside = (layer >= self.first) & (layer <= self.last)
        step = layer - self.first
        row = self.start + (step if self.stride is None else step * self.stride)
        rows = take_rows(table, jnp.where(inside, row, 0))
        return jnp.where(inside[:, None], rows.astype(jnp.float32), 0.0)


def write(
    table: Float[Array, "R D"], writes: Writes, weight: Float[Array, " N"], layers: int, length: int
) -> Float[Array, "L T D"]:
    """Sum weight x decoder row over occurrences, at each one's position and target layers.

    Deterministic: a product with the one-hot positions instead of a scatter.
    """
    count = weight.shape[0]
    if count <= _CHUNK:
        return _write_chunk(table, writes, weight, layers, length)
    chunks = -(-count // _CHUNK)
    pad = chunks * _CHUNK - count

    def split(x: Array) -> Array:
        return jnp.pad(x, (0, pad)).reshape(chunks, _CHUNK)

    parts = jax.tree.map(split, (writes, weight))

    def add(total, part):
        members, weights = part
        return total + _write_chunk(table, members, weights, layers, length), None

    zero = jnp.zeros((layers, length, table.shape[1]), jnp.float32)
    return jax.lax.scan(add, zero, parts)[0]


def _write_chunk(
    table: Array, writes: Writes, weight: Array, layers: int, length: int
) -> Float[Array, "L T D"]:
    def target(_, layer):
        return None, write_layer(table, writes, weight, layer, length)

    return jax.lax.scan(target, None, jnp.arange(layers))[1]


def write_layer(
    table: Float[Array, "R D"],
    writes: Writes,
    weight: Float[Array, " N"],
    layer: Int[Array, ""],
    length: int,
) -> Float[Array, "T D"]:
    """Sum weight x decoder row for one target layer; positions outside 0 .. T - 1 are left out."""
    at = jax.nn.one_hot(writes.position, length, dtype=jnp.float32, axis=0) * weight
    rows = writes.rows(table, layer)
    if weight.shape[0] <= _FEW:
        # A product so small costs more to start than to do.
        return sum(
            (at[:, k, None] * rows[k] for k in range(1, weight.shape[0])), at[:, :1] * rows[0]
        )
    return jnp.matmul(at, rows, precision=jax.lax.Precision.HIGHEST)
