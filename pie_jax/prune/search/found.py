"""The searches of one batch, each run once, that several methods share.

Shapes: B batch, S budgets, P candidates, K the largest budget.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from pie_jax.mesh import fetch
from pie_jax.prune.inputs import PruneInputs
from pie_jax.prune.methods.base import Selection
from pie_jax.prune.search.batch import side_by_side
from pie_jax.prune.search.circuits import Circuits, is_member
from pie_jax.prune.search.exchange import BEST, WEAKEST, exchange
from pie_jax.prune.search.grow import grow, stage_ends
from pie_jax.prune.search.kept import to_selection
from pie_jax.prune.search.learn import learn, warm_logits
from pie_jax.prune.search.space import search_space


class Search:
    """What the search methods found in one batch for `budgets`: circuits [B, S]."""

    def __init__(self, inputs: PruneInputs, budgets: tuple[int, ...]):
        self.inputs, self.budgets = inputs, budgets
        self.options = inputs.options.search
        self.space = search_space(inputs, self.options.candidates)
        ends = stage_ends(budgets, self.options.stages)
        path = grow(self.space, jnp.asarray(ends), max(budgets), side_by_side(inputs, 1))
        at = np.array([ends.index(budget) for budget in budgets])
        self.grown: Circuits = jax.tree.map(lambda each: each[:, at], path.circuits)
        # What a candidate is worth on the whole way, for the start of learning.
        self.worth = path.worth

    def learned(self, warm: bool) -> Circuits:
        """Return learned circuits, from the grown ones or from what candidates are worth."""
        count, options = self.space.occurrence.shape[1], self.options
        start = jax.vmap(jax.vmap(lambda members: is_member(members, count)))(self.grown.members)
        logits = jax.vmap(warm_logits)(warm * start.astype(jnp.float32), self.worth)
        sizes, rate = jnp.asarray(self.budgets), jnp.float32(options.rate)
        chunk = side_by_side(self.inputs, len(self.budgets))
        return learn(self.space, logits, sizes, rate, max(self.budgets), options.steps, chunk)

    def exchanged(self, circuits: Circuits) -> Circuits:
        """Return circuits after the exchanges asked for."""
        rounds = self.options.exchanges
        if rounds == 0:
            return circuits
        chunk = side_by_side(self.inputs, len(self.budgets) * WEAKEST * BEST)
        return exchange(self.space, circuits.members, rounds, chunk)

    def selections(self, circuits: Circuits) -> list[Selection]:
        """Return the kept sets, ordered and scored by what dropping a member would cost."""
        members, gain = fetch(circuits.members), fetch(circuits.gain)
        return [
            to_selection(self.inputs, self.space, members[:, s], gain[:, s], budget)
            for s, budget in enumerate(self.budgets)
        ]
