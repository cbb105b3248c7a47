"""Grow a circuit from nothing in stages, each by the gradient of KL at the circuit so far.

Shapes: B batch, P candidates, E stages.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pie_jax.prune.search.batch import map_prompts
from pie_jax.prune.search.space import Space, kl_and_gain


class Path(NamedTuple):
    """Nested circuits: `mask` after each stage; `gain` gains before it, nats."""

    mask: Float[Array, "B E P"]
    gain: Float[Array, "B E P"]


def stage_ends(budgets: tuple[int, ...], stages: int) -> list[int]:
    """Return how many occurrences are kept after each stage: every budget is one of them.

    Stages grow with the circuit: early choices decide what later gradients see.
    """
    most = max(budgets)
    grid = np.unique(np.rint(np.geomspace(1, most, min(stages, most))).astype(int))
    return sorted({*grid.tolist(), *budgets})


@partial(jax.jit, static_argnames="chunk")
def grow(space: Space, ends: Int[Array, " E"], chunk: int) -> Path:
    """Return the path of circuits of `ends` [E] members; the largest gains (signed) are added."""

    def one(space: Space) -> Path:
        def stage(mask: Array, end: Array) -> tuple[Array, tuple[Array, Array]]:
            _, gain = kl_and_gain(space, mask)
            longer = largest(jnp.where(mask > 0, jnp.inf, gain), end)
            return longer, (longer, gain)

        return Path(*jax.lax.scan(stage, jnp.zeros(space.occurrence.shape, jnp.float32), ends)[1])

    return map_prompts(one, chunk, space)


def largest(score: Float[Array, " P"], count: Int[Array, ""]) -> Float[Array, " P"]:
    """Return a mask of the `count` largest scores; of equal ones, the first; never of -inf."""
    order = jnp.argsort(-score, stable=True)
    rank = jnp.zeros(score.shape, jnp.int32).at[order].set(jnp.arange(score.shape[0]))
    return ((rank < count) & (score > -jnp.inf)).astype(jnp.float32)
