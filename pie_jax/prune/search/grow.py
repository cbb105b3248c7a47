"""Grow a circuit from nothing in stages, each by the gradient of KL at the circuit so far.

Shapes: B batch, P candidates, E stages, K the largest circuit.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pie_jax.devices.programs import program
from pie_jax.prune.engine.selection import PADDING
from pie_jax.prune.search.circuits import Circuits, is_member, largest_members, measure
from pie_jax.prune.search.space import Space, map_prompts


class Path(NamedTuple):
    """Nested circuits [B, E], one after each stage; `null` [B] KL with nothing kept; `worth` [B, P]
    every candidate's gain, the mean over the circuits before each stage; both in nats."""

    circuits: Circuits
    null: Float[Array, " B"]
    worth: Float[Array, "B P"]


def stage_ends(budgets: tuple[int, ...], stages: int, least: int = 1) -> list[int]:
    """Return how many occurrences are kept after each stage: every budget is one of them.

    Stages grow with the circuit: early choices decide what later gradients see. Of the stages from
    one occurrence on, those from `least` on.
    """
    most = max(budgets)
    grid = np.unique(np.rint(np.geomspace(1, most, min(stages, most))).astype(int)).tolist()
    return sorted({*(end for end in grid if end >= least), *budgets})


@program("most", "chunk")
def grow(space: Space, ends: Int[Array, " E"], most: int, chunk: int) -> Path:
    """Return the path of circuits of `ends` [E] members, at most `most`; the largest gains (signed)
    are added."""
    # Once more at the end, where nothing is added: to measure the last circuit.
    stages = jnp.concatenate([ends, ends[-1:]])

    def one(space: Space) -> Path:
        def stage(members: Array, end: Array) -> tuple[Array, tuple[Circuits, Array]]:
            circuit, gain = jax.tree.map(lambda each: each[0], measure(space, members[None]))
            held = is_member(members, gain.shape[0])
            longer = largest_members(jnp.where(held, jnp.inf, gain), end, most)
            return longer, (circuit, gain)

        nothing = jnp.full(most, PADDING, jnp.int32)
        _, (circuits, gains) = jax.lax.scan(stage, nothing, stages)
        worth = jnp.where(space.real, gains[:-1].mean(axis=0), 0.0)
        return Path(jax.tree.map(lambda each: each[1:], circuits), circuits.kl[0], worth)

    return map_prompts(one, chunk, space)


def largest(score: Float[Array, " P"], count: Int[Array, ""]) -> Float[Array, " P"]:
    """Return a mask of the `count` largest scores; of equal ones, the first; never of -inf."""
    order = jnp.argsort(-score, stable=True)
    rank = jnp.zeros(score.shape, jnp.int32).at[order].set(jnp.arange(score.shape[0]))
    return ((rank < count) & (score > -jnp.inf)).astype(jnp.float32)
