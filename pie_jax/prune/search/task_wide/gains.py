"""KL and gains of circuits of features over a batch of prompts; a kept feature is kept wherever it
occurs.

Gains of occurrences are summed by feature on the host, in float64 and in one order, so that nothing
depends on how a device adds.

Shapes: B batch, M corruptions, N occurrences, S circuits, U features, L layers, W positions of the
window, D model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from pie_jax.devices.mesh import fetch
from pie_jax.devices.programs import program
from pie_jax.prune.batch.problem import Problem, over_prompts
from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.search.clean_run import open_window, window_kl
from pie_jax.prune.search.space import KEPT_BY_GRADIENT


class TaskBatch(NamedTuple):
    """A batch of prompts: its inputs, how many of them are `real`, and the place `slot` [B, N] of
    each occurrence's feature among the U, -1 where it has none."""

    inputs: BatchEvaluator
    slot: np.ndarray
    real: int


class Gains(NamedTuple):
    """Of S circuits: `kl` [B, S] of each prompt in nats, and by how much each feature lowers it to
    first order (of a member: by how much KL would rise without it), summed over prompts, `gain`
    [S, U]; `size` [S, U] sums the magnitudes of occurrences' gains."""

    kl: np.ndarray
    gain: np.ndarray
    size: np.ndarray


def batch_kl(batch: TaskBatch, mask: np.ndarray) -> np.ndarray:
    """Return KL(clean || circuit) of each real prompt with the features of masks [S, U], [B, S]."""
    inputs = batch.inputs
    kept = inputs.put(_spread(mask, batch.slot))
    chunk = min(len(mask), inputs.side_by_side())
    return fetch(_kls(inputs.problem, inputs.total, kept, chunk))[: batch.real]


def batch_gains(batch: TaskBatch, mask: np.ndarray, use: np.ndarray) -> Gains:
    """Return KL and gains of masks [S, U]; `use` [B] says which real prompts are summed."""
    inputs = batch.inputs
    kept = inputs.put(_spread(mask, batch.slot))
    chunk = max(1, min(len(mask), inputs.side_by_side() // KEPT_BY_GRADIENT))
    kl, gains = map(fetch, _kls_and_gains(inputs.problem, inputs.total, kept, chunk))
    slot = batch.slot[: batch.real][use]
    there = slot >= 0
    sums = [
        [np.bincount(slot[there], values[there], mask.shape[1]) for values in (one, np.abs(one))]
        for one in gains[: batch.real][use].swapaxes(0, 1)
    ]
    gain, size = np.array(sums).swapaxes(0, 1)
    return Gains(kl[: batch.real], gain, size)


def _spread(mask: np.ndarray, slot: np.ndarray) -> np.ndarray:
    """Return masks [S, U] as which occurrences are kept, [B, S, N]."""
    kept = np.pad(mask, ((0, 0), (0, 1)))[:, slot]
    return kept.swapaxes(0, 1).astype(np.float32)


@program("chunk")
def _kls(
    problem: Problem, total: Float[Array, "B M L W D"], kept: Float[Array, "B S N"], chunk: int
) -> Float[Array, "B S"]:
    def one(problem: Problem, total: Array, kept: Array) -> Array:
        kl = _kl_of(problem)
        return jax.lax.map(lambda mask: kl(_change(problem, total, mask)), kept, batch_size=chunk)

    return over_prompts(one, problem, total, kept)


@program("chunk")
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
