"""A search space of fewer candidates: each step's gradient reads the rows of all there are.

Shapes: B batch, M corruptions, P candidates of a space, Q of the narrower one, L layers, D model.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pie_jax.devices.mesh import fetch
from pie_jax.devices.programs import program
from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.engine.selection import PADDING
from pie_jax.prune.search.circuits import Circuits
from pie_jax.prune.search.space import TILE, Space, highest, tiles


class Narrower(NamedTuple):
    """A `space` of some of another's candidates, each with its `score`, 0 for padding; `of`
    says which ones they are, -1 for padding."""

    space: Space
    score: Float[Array, "B Q"]
    of: Int[Array, "B Q"]

    def widened(self, circuits: Circuits) -> Circuits:
        """Return circuits of `space` as circuits of the space that it was taken from."""
        return circuits._replace(members=_looked_up(self.of, circuits.members))


def narrowed(
    inputs: BatchEvaluator, space: Space, score: Float[Array, "B P"], most: int
) -> Narrower:
    """Return each prompt's `most` candidates of the highest score; all if no prompt has more."""
    real = fetch(space.real)
    if real.sum(axis=1).max(initial=0) <= most:
        index = np.broadcast_to(np.arange(real.shape[1], dtype=np.int32), real.shape)
        return Narrower(space, score, inputs.put(index))
    place = np.repeat(fetch(space.place), TILE, axis=1)
    index, where = tiles(highest(fetch(score), real, most), place)
    of = inputs.put(index)
    rows, delta, score, occurrence = _taken((space.rows, space.delta, score, space.occurrence), of)
    narrow = space._replace(occurrence=occurrence, place=inputs.put(where), rows=rows, delta=delta)
    return Narrower(narrow, score, of)


@program()
@jax.vmap
def _looked_up(index: Int[Array, " Q"], members: Int[Array, "S K"]) -> Int[Array, "S K"]:
    return jnp.where(members >= 0, index[jnp.maximum(members, 0)], PADDING)


@program()
@jax.vmap
def _taken(of: tuple[Array, Array, Array, Array], index: Int[Array, " Q"]) -> tuple[Array, ...]:
    """Return rows, change, score and occurrence of the candidates at `index`."""
    rows, delta, score, occurrence = of
    real, at = index >= 0, jnp.maximum(index, 0)
    return (
        rows.reshape(-1, rows.shape[-1])[at].reshape(-1, TILE, rows.shape[-1]),
        jnp.where(real, delta[:, at], 0.0),
        jnp.where(real, score[at], 0.0),
        jnp.where(real, occurrence[at], PADDING),
    )
