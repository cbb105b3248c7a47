"""Search for the features of a whole task: a kept feature is kept wherever it occurs.

A circuit is a mask over the U features that any corruption changes on any seen prompt. Each step
goes over all seen prompts; their gradients are summed feature by feature on the host, in float64
and in one order, so that nothing depends on how a device adds.

Shapes: B batch, M corruptions, N occurrences, S circuits, U features, E stages, L layers,
W positions of the window, D model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pie_jax.mesh import fetch
from pie_jax.prune.inputs import PruneInputs
from pie_jax.prune.options import PruneOptions
from pie_jax.prune.problem import Problem, over_prompts
from pie_jax.prune.search.batch import KEPT_BY_GRADIENT
from pie_jax.prune.search.grow import largest, stage_ends
from pie_jax.prune.search.learn import PATIENCE, optimiser, unit, warm_logits
from pie_jax.prune.search.window import open_window, window_kl


class TaskBatch(NamedTuple):
    """A batch of prompts: its inputs, how many of them are `real`, and the place `slot` [B, N] of
    each occurrence's feature among the U, -1 where it has none."""

    inputs: PruneInputs
    slot: np.ndarray
    real: int


def batch_kl(batch: TaskBatch, mask: np.ndarray) -> np.ndarray:
    """Return KL(clean || circuit) of each real prompt with the features of masks [S, U], [B, S]."""
    inputs = batch.inputs
    kept = inputs.put(_spread(mask, batch.slot))
    chunk = min(len(mask), inputs.side_by_side())
    return fetch(_kls(inputs.problem, inputs.total, kept, chunk))[: batch.real]


def batch_gain(batch: TaskBatch, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each real prompt's KL [B, S] and, summed over them, by how much keeping each feature
    lowers it to first order, [S, U]; of a member, by how much KL would rise without it."""
    inputs = batch.inputs
    kept = inputs.put(_spread(mask, batch.slot))
    chunk = max(1, min(len(mask), inputs.side_by_side() // KEPT_BY_GRADIENT))
    kl, gain = map(fetch, _kls_and_gains(inputs.problem, inputs.total, kept, chunk))
    slot = batch.slot[: batch.real]
    total = np.zeros(mask.shape)
    for s, row in enumerate(gain[: batch.real].swapaxes(0, 1)):
        total[s] = np.bincount(slot[slot >= 0], row[slot >= 0], mask.shape[1])
    return kl[: batch.real], total


def _spread(mask: np.ndarray, slot: np.ndarray) -> np.ndarray:
    """Return masks [S, U] as which occurrences are kept, [B, S, N]."""
    kept = np.pad(mask, ((0, 0), (0, 1)))[:, slot]
    return kept.swapaxes(0, 1).astype(np.float32)


@partial(jax.jit, static_argnames="chunk")
def _kls(
    problem: Problem, total: Float[Array, "B M L W D"], kept: Float[Array, "B S N"], chunk: int
) -> Float[Array, "B S"]:
    def one(problem: Problem, total: Array, kept: Array) -> Array:
        kl = _kl_of(problem)
        return jax.lax.map(lambda mask: kl(_change(problem, total, mask)), kept, batch_size=chunk)

    return over_prompts(one, problem, total, kept)


@partial(jax.jit, static_argnames="chunk")
def _kls_and_gains(
    problem: Problem, total: Float[Array, "B M L W D"], kept: Float[Array, "B S N"], chunk: int
) -> tuple[Float[Array, "B S"], Float[Array, "B S N"]]:
    def one(problem: Problem, total: Array, kept: Array) -> tuple[Array, Array]:
        kl = _kl_of(problem)

        def at(mask: Array) -> tuple[Array, Array]:
            value, gradient = jax.value_and_grad(kl)(_change(problem, total, mask))
            return value, -(problem.delta * jax.vmap(problem.product)(gradient)).sum(axis=0)

        return jax.lax.map(at, kept, batch_size=chunk)

    return over_prompts(one, problem, total, kept)


def _kl_of(problem: Problem) -> Callable[[Float[Array, "M L W D"]], Float[Array, ""]]:
    """Return the KL at the last position of a change, nats, the mean over corruptions."""
    window = open_window(problem)

    def kl(change: Array) -> Array:
        return jax.vmap(lambda one: window_kl(problem.model, window, one))(change).mean()

    return kl


def _change(
    problem: Problem, total: Float[Array, "M L W D"], kept: Float[Array, " N"]
) -> Float[Array, "M L W D"]:
    return jax.vmap(lambda delta: problem.written(delta * kept))(problem.delta) - total


class TaskSearch:
    """The searches over a task's seen prompts, each run once; several methods share them.

    `batches` goes over the seen prompts, as often as asked; `active` [U] says which features the
    clean run has. Masks are [S, U] for the S budgets, KL is the mean over prompts in nats, and
    gains are means likewise.
    """

    def __init__(self, batches: Iterable[TaskBatch], active: np.ndarray, options: PruneOptions):
        self.active, self.budgets, self.seed = active, options.budgets, options.seed
        self._batches, self._options = batches, options.search

    def measured(self, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the exact KL [S] of masks [S, U], and every feature's gain there [S, U]."""
        kls, gain = [], np.zeros(mask.shape)
        for batch in self._batches:
            kl, more = batch_gain(batch, mask)
            kls.append(kl)
            gain += more
        kl = np.concatenate(kls)
        mean = kl.mean(axis=0, dtype=np.float64)
        return mean.astype(np.float32), (gain / len(kl)).astype(np.float32)

    @cached_property
    def _path(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the circuits of the budgets on the path from nothing, and the mean gain on it."""
        ends = stage_ends(self.budgets, self._options.stages)
        mask, masks, worth = np.zeros(len(self.active), np.float32), {}, []
        for end in ends:
            _, (gain,) = self.measured(mask[None])
            worth.append(gain)
            mask = np.asarray(largest(jnp.where(mask > 0, jnp.inf, gain), jnp.int32(end)))
            masks[end] = mask
        return np.stack([masks[budget] for budget in self.budgets]), np.mean(worth, axis=0)

    def grown(self) -> np.ndarray:
        """Return the circuits grown from nothing: each stage adds the largest gains (signed)."""
        return self._path[0]

    def learned(self, warm: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return learned circuits and their KL, from the grown ones or from what features are worth
        on the path.

        As for one prompt (`learn.py`), with gradients summed over all seen prompts.
        """
        grown, worth = self._path
        start = grown if warm else np.zeros_like(grown)
        logits = warm_logits(jnp.asarray(start), jnp.asarray(worth))
        moves = optimiser(self._options.steps)
        state, stale = moves.init(logits), 0
        best, least = np.zeros_like(grown), np.full(len(grown), np.inf, np.float32)
        for _ in range(self._options.steps):
            mask = np.asarray(_largest(logits, jnp.asarray(self.budgets)))
            kl, gain = self.measured(mask)
            better = kl < least
            best, least = np.where(better[:, None], mask, best), np.minimum(kl, least)
            stale = 0 if better.any() else stale + 1
            if stale == PATIENCE:
                break
            update, state = moves.update(unit(jnp.asarray(gain)), state)
            logits = logits + self._options.rate * update
        return best, least


@jax.jit
def _largest(logits: Float[Array, "S U"], sizes: Int[Array, " S"]) -> Float[Array, "S U"]:
    return jax.vmap(largest)(logits, sizes)
