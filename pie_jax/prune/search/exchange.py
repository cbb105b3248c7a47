"""Exchange members of a circuit for better candidates, while its exact KL falls.

Shapes: B batch, S circuits of a prompt, P candidates, K the largest circuit.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from pie_jax.devices.programs import program
from pie_jax.prune.search.circuits import Circuits, is_member, measure
from pie_jax.prune.search.space import Space, circuit_kl, map_prompts

WEAKEST, BEST = 4, 8


@program("rounds", "chunk")
def exchange(space: Space, members: Int[Array, "B S K"], rounds: int, chunk: int) -> Circuits:
    """Return the circuits after at most `rounds` exchanges each; KL never rises.

    A round takes, by the gradient, the 4 members that lower KL least and the 8 candidates that
    would lower it most, measures all 32 exchanges exactly, and makes the best one if KL falls.
    """

    def one(space: Space, members: Array) -> Circuits:
        return jax.vmap(partial(_exchange, space, rounds=rounds))(members)

    return map_prompts(one, chunk, space, members)


def _exchange(space: Space, members: Array, rounds: int) -> Circuits:
    weakest, best = min(WEAKEST, len(members)), min(BEST, len(space.occurrence))

    def measured(members: Array) -> tuple[Circuits, Array]:
        return jax.tree.map(lambda each: each[0], measure(space, members[None]))

    def advance(state: tuple[Array, Array]) -> tuple[Array, Array]:
        step, members = state
        circuit, gain = measured(members)
        held = is_member(members, len(gain))
        _, slots = jax.lax.top_k(jnp.where(members >= 0, -circuit.gain, -jnp.inf), weakest)
        _, added = jax.lax.top_k(jnp.where(held, -jnp.inf, gain), best)

        def swap(slot: Array, into: Array) -> Array:
            # Padding, or too small a circuit: what would change its size is no exchange.
            valid = (members[slot] >= 0) & ~held[into] & space.real[into]
            return jnp.where(valid, members.at[slot].set(into), members)

        tried = jax.vmap(lambda slot: jax.vmap(lambda into: swap(slot, into))(added))(slots)
        tried = tried.reshape(-1, len(members))
        values = jax.vmap(partial(circuit_kl, space))(tried)
        first = jnp.argmin(values)
        falls = values[first] < circuit.kl
        return jnp.where(falls, step + 1, rounds), jnp.where(falls, tried[first], members)

    _, members = jax.lax.while_loop(
        lambda state: state[0] < rounds, advance, (jnp.int32(0), members)
    )
    return measured(members)[0]
