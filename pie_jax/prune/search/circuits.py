"""Circuits as lists of candidates, with each one's KL and its members' gains.

Shapes: B batch, S circuits of a prompt, P candidates, K the largest circuit.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from pie_jax.prune.engine.selection import PADDING
from pie_jax.prune.search.space import Space, loss_and_gain


class Circuits(NamedTuple):
    """Circuits: `members` candidates, -1 up to K; exact `kl` and `loss`, nats; `gain` of each
    member, by how much the loss would rise without it to first order, 0 for none."""

    members: Int[Array, "*B S K"]
    kl: Float[Array, "*B S"]
    loss: Float[Array, "*B S"]
    gain: Float[Array, "*B S K"]


def measure(space: Space, members: Int[Array, "S K"]) -> tuple[Circuits, Float[Array, "S P"]]:
    """Return a prompt's circuits measured, and the gain of every candidate at each."""
    loss, kl, gain = loss_and_gain(space, members)
    own = jnp.take_along_axis(gain, jnp.maximum(members, 0), axis=1)
    return Circuits(members, kl, loss, jnp.where(members >= 0, own, 0.0)), gain


def largest_members(score: Float[Array, " P"], size: Int[Array, ""], most: int) -> Int[Array, " K"]:
    """Return the `size` candidates of the largest scores, best first, -1 up to K = `most`; of equal
    ones, the first; never of -inf."""
    value, index = jax.lax.top_k(score, min(most, score.shape[0]))
    chosen = (jnp.arange(len(index)) < size) & (value > -jnp.inf)
    return jnp.pad(
        jnp.where(chosen, index, PADDING), (0, most - len(index)), constant_values=PADDING
    )


def is_member(members: Int[Array, " K"], count: int) -> Bool[Array, " P"]:
    """Return which of `count` candidates a circuit holds."""
    at = jnp.where(members >= 0, members, count)
    return jnp.zeros(count, bool).at[at].set(True, mode="drop")


def member_mask(members: Int[np.ndarray, "S K"], count: int) -> Bool[np.ndarray, "S P"]:
    """Return which of `count` candidates each circuit holds, on the host."""
    mask = np.zeros((len(members), count + 1), bool)
    np.put_along_axis(mask, np.where(members >= 0, members, count), True, axis=1)
    return mask[:, :count]
