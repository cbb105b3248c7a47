"""Grow a circuit from nothing in stages, each by the gradient of its loss at the circuit so far.

A gain is of first order: many additions that each lower KL overshoot together. So a stage adds the
largest gains only as far as they are to lower KL to nothing, and fills up with what pulls either
way, in balance.

Shapes: B batch, P candidates, E stages, K the largest circuit.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from pie_jax.devices.programs import program
from pie_jax.prune.engine.selection import PADDING
from pie_jax.prune.search.circuits import Circuits, is_member, largest_members, measure
from pie_jax.prune.search.space import Space, map_prompts

# A stage's gains sum to at most so many times KL. Where KL is quadratic, those that lower it to
# nothing sum to twice its value; on a pretrained model less left more of the circuits in balance.
ENOUGH = 1.5
# By default so many stages, and so many that none makes a circuit longer than this: gains change.
_STAGES, _LONGEST = 20, 4 / 3


class Path(NamedTuple):
    """Nested circuits [B, E], one after each stage; `null` [B] KL with nothing kept; `worth` [B, P]
    every candidate's gain, the mean over the circuits before each stage; both in nats."""

    circuits: Circuits
    null: Float[Array, " B"]
    worth: Float[Array, "B P"]


def stage_ends(budgets: tuple[int, ...], stages: int | None, least: int = 1) -> list[int]:
    """Return how many occurrences are kept after each stage: every budget is one of them.

    Stages grow with the circuit: early choices decide what later gradients see. Of the stages from
    one occurrence on, those from `least` on.
    """
    most = max(budgets)
    count = stage_count(most, stages)
    grid = np.unique(np.rint(np.geomspace(1, most, min(count, most))).astype(int)).tolist()
    return sorted({*(end for end in grid if end >= least), *budgets})


def stage_count(most: int, stages: int | None) -> int:
    """Return in how many stages a circuit of `most` occurrences grows, if not in `stages`."""
    return stages or max(_STAGES, 1 + math.ceil(math.log(most) / math.log(_LONGEST)))


@program("most", "chunk")
def grow(space: Space, ends: Int[Array, " E"], most: int, chunk: int) -> Path:
    """Return the path of circuits of `ends` [E] members, at most `most`."""
    # Once more at the end, where nothing is added: to measure the last circuit.
    stages = jnp.concatenate([ends, ends[-1:]])

    def one(space: Space) -> Path:
        def stage(members: Array, end: Array) -> tuple[Array, tuple[Circuits, Array]]:
            circuit, gain = jax.tree.map(lambda each: each[0], measure(space, members[None]))
            held = is_member(members, gain.shape[0])
            free = jnp.where(held, -jnp.inf, gain)
            chosen = held | additions(free, end - held.sum(), ENOUGH * circuit.loss, most)
            return largest_members(jnp.where(chosen, gain, -jnp.inf), end, most), (circuit, gain)

        nothing = jnp.full(most, PADDING, jnp.int32)
        _, (circuits, gains) = jax.lax.scan(stage, nothing, stages)
        worth = jnp.where(space.real, gains[:-1].mean(axis=0), 0.0)
        return Path(jax.tree.map(lambda each: each[1:], circuits), circuits.kl[0], worth)

    return map_prompts(one, chunk, space)


def additions(
    gain: Float[Array, " P"], count: Int[Array, ""], enough: Float[Array, ""], most: int
) -> Bool[Array, " P"]:
    """Return which `count` candidates, at most `most`, to add: those of the largest gains (signed).
    Where these sum to more than `enough`, only so many of the largest, and of the lowest instead,
    that all do not. A gain of -inf is no candidate."""
    most = min(most, len(gain))
    rises, falls = gain > 0, (gain <= 0) & (gain > -jnp.inf)
    ups, downs = rises.sum(), falls.sum()
    count = jnp.minimum(count, ups + downs)
    up, at_up = jax.lax.top_k(jnp.where(rises, gain, 0.0), most)
    raised = _sums(up)
    all_fit = raised[jnp.minimum(count, ups)] <= enough
    # What does not rise: from the largest gain down, of equal ones the last first; or from the
    # lowest up. Never the whole order: sorting takes long to compile and to run.
    down_from_top = jnp.where(falls, gain, -jnp.inf)[::-1]
    up_from_least = jnp.where(gain > -jnp.inf, -gain, -jnp.inf)
    down, at_down = jax.lax.top_k(jnp.where(all_fit, down_from_top, up_from_least), most)
    at_down = jnp.where(all_fit, len(gain) - 1 - at_down, at_down)
    lowered = _sums(jnp.maximum(down, 0.0))
    # The sum rises with the number of gains above 0.
    rising = jnp.arange(most + 1)
    fits = (raised - lowered[jnp.maximum(count - rising, 0)] <= enough) & (rising <= count)
    rising = jnp.clip(fits.sum() - 1, jnp.maximum(count - downs, 0), jnp.minimum(count, ups))
    rising = jnp.where(all_fit, jnp.minimum(count, ups), rising)
    rank = jnp.arange(most)
    chosen = jnp.concatenate([rank < rising, rank < count - rising])
    at = jnp.concatenate([at_up, at_down])
    return jnp.zeros(gain.shape, bool).at[at].max(chosen)


def _sums(values: Float[Array, " P"]) -> Float[Array, " P+1"]:
    """Return the sum of the first 0, 1, ... values."""
    return jnp.concatenate([jnp.zeros(1, values.dtype), jnp.cumsum(values)])


def largest(score: Float[Array, " P"], count: Int[Array, ""]) -> Float[Array, " P"]:
    """Return a mask of the `count` largest scores; of equal ones, the first; never of -inf."""
    order = jnp.argsort(-score, stable=True)
    rank = jnp.zeros(score.shape, jnp.int32).at[order].set(jnp.arange(score.shape[0]))
    return ((rank < count) & (score > -jnp.inf)).astype(jnp.float32)
