"""Learn which K candidates to keep: a mask by gradient descent, always evaluated as a circuit.

The forward pass keeps exactly the K candidates of the largest logits; the gradient passes straight
through the choice to all logits (a straight-through estimator). So every step measures a real
circuit, and the best one seen is the result.

Shapes: B batch, S circuits of a prompt, P candidates.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from pie_jax.devices.programs import program
from pie_jax.prune.search.circuits import Circuits, largest_members, measure
from pie_jax.prune.search.space import Space, map_prompts

# Steps without a better circuit after which a prompt's search ends.
PATIENCE = 8
_TINY = 1e-12


class _State(NamedTuple):
    step: Array
    stale: Array
    logits: Array
    optimiser: optax.OptState
    best: Circuits


def warm_logits(
    mask: Float[np.ndarray, "B S P"], score: Float[np.ndarray, "B P"]
) -> Float[np.ndarray, "B S P"]:
    """Return logits whose K largest are a circuit's members; others start by their score.

    On the host: nothing is compiled for it.
    """
    positive = np.where(np.isfinite(score), np.maximum(score, 0), 0)
    start = 0.5 * positive / (positive.max(axis=1, keepdims=True) + _TINY)
    return (start[:, None] + 0.6 * mask).astype(np.float32)


def optimiser(steps: int) -> optax.GradientTransformation:
    """Return momentum with steps that fall linearly to nothing."""
    return optax.chain(
        optax.trace(decay=0.9),
        optax.scale_by_schedule(lambda step: 0.1 * (1 - step / steps)),
    )


def unit(gain: Float[Array, "S P"]) -> Float[Array, "S P"]:
    """Return each circuit's gains with a root mean square of 1."""
    return gain / (jnp.sqrt(jnp.mean(gain**2, axis=1, keepdims=True)) + _TINY)


@program("most", "steps", "chunk")
def learn(
    space: Space,
    logits: Float[Array, "B S P"],
    sizes: Int[Array, " S"],
    rate: Float[Array, " B"],
    most: int,
    steps: int,
    chunk: int,
) -> tuple[Circuits, Float[Array, "B S P"]]:
    """Return the best circuits of `sizes` [S] members, at most `most`, seen on the way, the start's
    included; and the logits in the end.

    Logits move by momentum on gradients of one length each, with steps that fall linearly from
    each prompt's `rate` to nothing; a prompt stops when none of its circuits gets better.
    """
    moves = optimiser(steps)

    def one(space: Space, logits: Array, rate: Array) -> tuple[Circuits, Array]:
        def advance(state: _State) -> _State:
            usable = jnp.where(space.real, state.logits, -jnp.inf)
            members = jax.vmap(partial(largest_members, most=most))(usable, sizes)
            now, gain = measure(space, members)
            better = now.loss < state.best.loss

            def pick(new: Array, old: Array) -> Array:
                return jnp.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)

            away = unit(jnp.where(space.real, gain, 0.0))
            update, moved = moves.update(away, state.optimiser)
            stale = jnp.where(better.any(), 0, state.stale + 1)
            best = jax.tree.map(pick, now, state.best)
            return _State(state.step + 1, stale, state.logits + rate * update, moved, best)

        shape = (len(sizes), most)
        never = jnp.full(sizes.shape, jnp.inf)
        none = Circuits(jnp.zeros(shape, jnp.int32), never, never, jnp.zeros(shape))
        start = _State(jnp.int32(0), jnp.int32(0), logits, moves.init(logits), none)
        going = lambda state: (state.step < steps) & (state.stale < PATIENCE)  # noqa: E731
        end = jax.lax.while_loop(going, advance, start)
        return end.best, end.logits

    return map_prompts(one, chunk, space, logits, rate)
