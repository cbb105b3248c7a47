"""The searches of one batch, each run once, that several methods share.

Shapes: B batch, S budgets, P candidates, K the largest budget.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pie_jax.devices.mesh import fetch, mesh_of
from pie_jax.devices.programs import program
from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.engine.selection import PADDING, Selection, pad
from pie_jax.prune.search.circuits import Circuits, member_mask
from pie_jax.prune.search.exchange import BEST, WEAKEST, exchange
from pie_jax.prune.search.grow import grow, stage_ends
from pie_jax.prune.search.learn import learn, warm_logits
from pie_jax.prune.search.space import Space, search_space, side_by_side, with_complement

# Candidates, of the most worth, that learning from worth chooses from; at least so many a member.
LEARNED, LEARNED_EACH = 512, 4


class Search:
    """What the search methods found in one batch for `budgets`: circuits [B, S]; their path starts
    with `least` occurrences."""

    def __init__(
        self,
        inputs: BatchEvaluator,
        budgets: tuple[int, ...],
        least: int = 1,
        *,
        from_gains: bool = False,
    ):
        self.inputs, self.budgets = inputs, budgets
        self.options = inputs.options.search
        self.space = search_space(inputs, self.options.candidates)
        # Where circuits grow and are learned; what is chosen of them is compared by KL alone.
        self.weighed = with_complement(inputs, self.space)
        if from_gains:
            self._compile_learning()
        ends = stage_ends(budgets, self.options.stages, least)
        path = grow(self.weighed, jnp.asarray(ends), max(budgets), self._chunk(1))
        at = np.array([ends.index(budget) for budget in budgets])
        self.grown: Circuits = _at_stages(path.circuits, at)
        # What a candidate is worth on the whole way.
        self.null, self.worth = path.null, path.worth

    def _compile_learning(self) -> None:
        """Compile learning while the path is compiled and grown, where all candidates take part."""
        batch, count = self.space.occurrence.shape
        real = fetch(self.space.real).sum(axis=1).max(initial=0)
        if real > self.most_learned() or mesh_of(self.space.delta) is not None:
            return
        logits = jax.ShapeDtypeStruct((batch, 1, count), np.float32)
        learn.ahead(self.weighed, logits, *self.settings(self.budgets[:1]))

    def most_learned(self) -> int:
        """Return how many candidates are learned among: more where rows are short."""
        return max(LEARNED, LEARNED_EACH * max(self.budgets)) * self.space.own_layers

    def settings(
        self, budgets: tuple[int, ...], rate: Float[Array, " B"] | None = None
    ) -> tuple[Array, Array, int, int, int]:
        """Return what `learn` takes beside a space and logits; the `rate` asked for, or this."""
        if rate is None:
            usual = np.full(len(self.inputs.rows), self.options.rate, np.float32)
            rate = self.inputs.put(usual)
        chunk = self._chunk(len(budgets))
        return jnp.asarray(budgets), rate, max(self.budgets), self.options.steps, chunk

    def _chunk(self, circuits: int) -> int:
        """Return how many prompts with so many circuits run side by side, each one's complement
        counted."""
        return side_by_side(self.inputs, circuits * (1 if self.weighed.complement is None else 2))

    def learned_from_grown(self) -> Circuits:
        """Return circuits learned from the grown ones."""
        count = self.space.occurrence.shape[1]
        start = np.stack([member_mask(one, count) for one in fetch(self.grown.members)])
        logits = self.inputs.put(warm_logits(start.astype(np.float32), fetch(self.worth)))
        return learn(self.weighed, logits, *self.settings(self.budgets))[0]

    def of_candidates(self, score: Float[np.ndarray, "B N"]) -> Float[np.ndarray, "B P"]:
        """Return the scores of candidates, from those of all occurrences; 0 for padding."""
        index = fetch(self.space.occurrence)
        return np.where(index >= 0, np.take_along_axis(score, np.maximum(index, 0), axis=1), 0.0)

    @property
    def complete(self) -> bool:
        """Tell whether every occurrence that changes is a candidate."""
        changes = (self.inputs.occurrences.delta != 0).any(axis=1) & self.inputs.occurrences.valid
        return bool((changes.sum(axis=1) <= fetch(self.space.real).sum(axis=1)).all())

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


@program()
def _at_stages(circuits: Circuits, at: Int[Array, " S"]) -> Circuits:
    """Return the circuits after some stages of a path."""
    return jax.tree.map(lambda each: each[:, at], circuits)


def to_selection(
    inputs: BatchEvaluator, space: Space, members: np.ndarray, score: np.ndarray, budget: int
) -> Selection:
    """Return the kept set of each circuit [B, K], ordered by score [B, K] from the largest down.

    Where a circuit has fewer than K members, the largest changes of activation fill it up with a
    score of 0.
    """
    index = fetch(space.occurrence)
    rows = [_one(inputs, index[b], b, members[b], score[b], budget) for b in range(len(members))]
    kept, scores = zip(*rows, strict=True)
    return Selection(np.stack(kept), np.stack(scores).astype(np.float32))


def _one(
    inputs: BatchEvaluator,
    index: np.ndarray,
    b: int,
    members: np.ndarray,
    score: np.ndarray,
    budget: int,
) -> tuple[np.ndarray, np.ndarray]:
    count = int(inputs.occurrences.count[b])
    real = np.flatnonzero(members != PADDING)
    real = real[np.argsort(-score[real], kind="stable")][:budget]
    kept = index[members[real]]
    size = np.abs(inputs.occurrences.delta[b, :, :count]).sum(axis=0)
    rest = np.argsort(-size, kind="stable")
    rest = rest[~np.isin(rest, kept)][: budget - len(kept)]
    scores = np.concatenate([score[real], np.zeros(budget - len(real))])
    return pad(np.concatenate([kept, rest]), budget), scores
