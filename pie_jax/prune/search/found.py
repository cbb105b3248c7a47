"""The searches of one batch, each run once, that several methods share.

Shapes: B batch, S budgets, P candidates.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pie_jax.mesh import fetch
from pie_jax.prune.inputs import PruneInputs
from pie_jax.prune.methods.base import Selection
from pie_jax.prune.search.batch import map_prompts, side_by_side
from pie_jax.prune.search.exchange import BEST, WEAKEST, exchange
from pie_jax.prune.search.grow import grow, stage_ends
from pie_jax.prune.search.kept import to_selection
from pie_jax.prune.search.learn import Circuits, learn, warm_logits
from pie_jax.prune.search.space import Space, kl_and_gain, search_space


class Search:
    """What the search methods found in one batch for `budgets`; masks are [B, S, P]."""

    def __init__(self, inputs: PruneInputs, budgets: tuple[int, ...]):
        self.inputs, self.budgets = inputs, budgets
        self.options = inputs.options.search
        self.space = search_space(inputs, self.options.candidates)
        self._chunk = side_by_side(inputs, len(budgets))
        self._warm()

    def _warm(self) -> None:
        ends = stage_ends(self.budgets, self.options.stages)
        path = grow(self.space, jnp.asarray(ends), side_by_side(self.inputs, 1))
        at = np.array([ends.index(budget) for budget in self.budgets])
        self.grown: Float[Array, "B S P"] = path.mask[:, at]
        # What a candidate is worth on the whole way, for the start of learning.
        self.worth: Float[Array, "B P"] = jnp.where(self.space.real, path.gain.mean(1), 0.0)

    def learned(self, warm: bool) -> Circuits:
        """Return learned circuits, from the grown ones or from what candidates are worth."""
        start = self.grown if warm else jnp.zeros_like(self.grown)
        logits = jax.vmap(warm_logits)(start, self.worth)
        options = self.options
        sizes, rate = jnp.asarray(self.budgets), jnp.float32(options.rate)
        return learn(self.space, logits, sizes, rate, options.steps, self._chunk)

    def exchanged(self, mask: Float[Array, "B S P"]) -> Float[Array, "B S P"]:
        """Return circuits after the exchanges asked for."""
        rounds = self.options.exchanges
        if rounds == 0:
            return mask
        chunk = side_by_side(self.inputs, len(self.budgets) * WEAKEST * BEST)
        return exchange(self.space, mask, rounds, chunk).mask

    def measured(self, mask: Float[Array, "B S P"]) -> tuple[Circuits, Float[Array, "B S P"]]:
        """Return circuits with their exact KL, and every candidate's gain there, nats."""
        kl, gain = _measure(self.space, mask, self._chunk)
        return Circuits(mask, kl), gain

    def selections(self, mask: Float[Array, "B S P"]) -> list[Selection]:
        """Return the kept sets, ordered and scored by what dropping a member would cost."""
        _, gain = self.measured(mask)
        masks, gains = fetch(mask), fetch(gain)
        return [
            to_selection(self.inputs, self.space, masks[:, s], gains[:, s], budget)
            for s, budget in enumerate(self.budgets)
        ]


@partial(jax.jit, static_argnames="chunk")
def _measure(space: Space, mask: Float[Array, "B S P"], chunk: int) -> tuple[Array, Array]:
    def one(space: Space, mask: Array) -> tuple[Array, Array]:
        return jax.vmap(partial(kl_and_gain, space))(mask)

    return map_prompts(one, chunk, space, mask)


def best_of(*found: Circuits) -> Circuits:
    """Return for every prompt and budget the circuit of the lowest exact KL."""
    kl = jnp.stack([circuits.kl for circuits in found])
    masks = jnp.stack([circuits.mask for circuits in found])
    best = jnp.argmin(kl, axis=0)
    mask = jnp.take_along_axis(masks, best[None, ..., None], axis=0)[0]
    return Circuits(mask, kl.min(axis=0))
