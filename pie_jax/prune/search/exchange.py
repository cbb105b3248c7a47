"""Exchange members of a circuit for better candidates, while its exact KL falls.

Shapes: B batch, S circuits of a prompt, P candidates, W weakest members, C best candidates.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pie_jax.prune.search.batch import map_prompts
from pie_jax.prune.search.learn import Circuits
from pie_jax.prune.search.space import Space, circuit_kl, kl_and_gain

WEAKEST, BEST = 4, 8


@partial(jax.jit, static_argnames=("rounds", "chunk"))
def exchange(space: Space, mask: Float[Array, "B S P"], rounds: int, chunk: int) -> Circuits:
    """Return the circuits after at most `rounds` exchanges each; KL never rises.

    A round takes, by the gradient, the 4 members that lower KL least and the 8 candidates that
    would lower it most, measures all 32 exchanges exactly, and makes the best one if KL falls.
    """

    def one(space: Space, mask: Array) -> Circuits:
        return jax.vmap(partial(_exchange, space, rounds=rounds))(mask)

    return map_prompts(one, chunk, space, mask)


def _exchange(space: Space, mask: Float[Array, " P"], rounds: int) -> Circuits:
    weakest, best = (min(n, mask.shape[0]) for n in (WEAKEST, BEST))

    def advance(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        step, mask, _ = state
        kl, gain = kl_and_gain(space, mask)
        _, dropped = jax.lax.top_k(jnp.where(mask > 0, -gain, -jnp.inf), weakest)
        _, added = jax.lax.top_k(jnp.where(mask > 0, -jnp.inf, gain), best)

        def swap(out: Array, into: Array) -> Array:
            # Padding, or too small a circuit: what would change its size is no exchange.
            valid = (mask[out] > 0) & (mask[into] == 0) & space.real[into]
            return jnp.where(valid, mask.at[out].set(0.0).at[into].set(1.0), mask)

        tried = jax.vmap(lambda out: jax.vmap(lambda into: swap(out, into))(added))(dropped)
        tried = tried.reshape(-1, mask.shape[0])
        values = jax.vmap(partial(circuit_kl, space))(tried)
        first = jnp.argmin(values)
        falls = values[first] < kl
        return (
            jnp.where(falls, step + 1, rounds),
            jnp.where(falls, tried[first], mask),
            jnp.minimum(values[first], kl),
        )

    start = (jnp.int32(0), mask, jnp.float32(jnp.inf))
    _, mask, kl = jax.lax.while_loop(lambda state: state[0] < rounds, advance, start)
    return Circuits(mask, kl)
