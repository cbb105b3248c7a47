"""What a search for circuits works on: the most promising occurrences, in a short window.

Shapes: B batch, M corruptions, N occurrences, P candidates, L layers, W positions of the window,
D model.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from pie_jax.buckets import bucket
from pie_jax.mesh import fetch
from pie_jax.models.transformer import Transformer
from pie_jax.prune.inputs import PruneInputs
from pie_jax.prune.problem import Problem, over_prompts
from pie_jax.prune.search.window import Window, open_window, window_kl

_LEAST_WINDOW, _LEAST_CANDIDATES = 4, 64
# Points of the path from nothing to everything by which candidates are chosen.
_POINTS = (0.0, 0.25, 0.5, 0.75)


class Space(NamedTuple):
    """One prompt's candidates and what they write; of a batch, [B, ...] but for the shared `model`.

    `occurrence` [P] which ones, -1 for padding; `position` [P] in the window; `rows` [L, P, D] what
    each writes per unit; `delta` [M, P]; `total` [M, L, W, D] what all occurrences write together.
    """

    model: Transformer
    window: Window
    occurrence: Int[Array, "*B P"]
    position: Int[Array, "*B P"]
    rows: Float[Array, "*B L P D"]
    delta: Float[Array, "*B M P"]
    total: Float[Array, "*B M L W D"]

    @property
    def real(self) -> Bool[Array, "*B P"]:
        """Return which candidates are no padding."""
        return self.occurrence >= 0


def change_of(space: Space, mask: Float[Array, " P"]) -> Float[Array, "M L W D"]:
    """Return the `mlp_delta` that keeps each candidate to the share `mask` and removes the rest."""
    size = space.total.shape[2]
    at = jax.nn.one_hot(space.position, size, dtype=jnp.float32, axis=0)
    weight = at * (space.delta * mask)[:, None]
    kept = jnp.einsum("mqp,lpd->mlqd", weight, space.rows, precision=jax.lax.Precision.HIGHEST)
    return kept - space.total


def kl_at(space: Space, change: Float[Array, "M L W D"]) -> Float[Array, ""]:
    """Return KL(clean || changed) at the last position, nats, the mean over corruptions."""
    return jax.vmap(lambda delta: window_kl(space.model, space.window, delta))(change).mean()


def circuit_kl(space: Space, mask: Float[Array, " P"]) -> Float[Array, ""]:
    """Return KL(clean || circuit) where each candidate is kept to the share `mask`, nats."""
    return kl_at(space, change_of(space, mask))


def kl_and_gain(
    space: Space, mask: Float[Array, " P"]
) -> tuple[Float[Array, ""], Float[Array, " P"]]:
    """Return a circuit's KL, and by how much each candidate's write lowers it to first order.

    Of a member it is by how much KL would rise if it were dropped. Padding is -inf.
    """
    value, gradient = jax.value_and_grad(partial(kl_at, space))(change_of(space, mask))
    product = jnp.einsum("mlqd,lpd->mqp", gradient, space.rows, precision=jax.lax.Precision.HIGHEST)
    at = jnp.broadcast_to(space.position, (product.shape[0], 1, product.shape[2]))
    picked = jnp.take_along_axis(product, at, axis=1)[:, 0]
    gain = -(space.delta * picked).sum(axis=0)
    return value, jnp.where(space.real, gain, -jnp.inf)


def search_space(inputs: PruneInputs, most: int) -> Space:
    """Return the candidates of a batch: at most `most` a prompt, the best by gradients on a path.

    An occurrence that no corruption changes is no candidate: keeping it changes nothing.
    """
    occurrences, problem = inputs.occurrences, inputs.problem
    live = (fetch(problem.delta) != 0).any(axis=1) & occurrences.valid
    index = _compact(live, bucket(int(live.sum(axis=1).max(initial=1)), _LEAST_CANDIDATES))
    window = _windows(problem)
    if index.shape[1] > most:
        index = _best(fetch(_path_scores(problem, window, inputs.total)), live, most)
    return _gather(problem, window, inputs.total, inputs.put(index))


def _compact(live: np.ndarray, size: int) -> np.ndarray:
    index = np.full((len(live), size), -1, np.int32)
    for b, row in enumerate(live):
        index[b, : row.sum()] = np.flatnonzero(row)
    return index


def _best(score: np.ndarray, live: np.ndarray, most: int) -> np.ndarray:
    """Return the `most` live occurrences of the largest score in order of place."""
    index = np.full((len(live), most), -1, np.int32)
    for b, row in enumerate(live):
        ranked = np.argsort(-np.where(row, score[b], -np.inf), kind="stable")
        chosen = np.sort(ranked[: min(most, row.sum())])
        index[b, : len(chosen)] = chosen
    return index


@jax.jit
def _windows(problem: Problem) -> Window:
    return over_prompts(open_window, problem)


@jax.jit
def _path_scores(
    problem: Problem, window: Window, total: Float[Array, "B M L W D"]
) -> Float[Array, "B N"]:
    """Return the larger gain of each occurrence: with nothing kept, or averaged on the path."""

    def one(problem: Problem, window: Window, total: Array) -> Array:
        def gradient(share: Array) -> Array:
            def kl(change: Array) -> Array:
                return jax.vmap(lambda c: window_kl(problem.model, window, c))(change).mean()

            return jax.grad(kl)((share - 1.0) * total)

        each = jax.lax.map(gradient, jnp.asarray(_POINTS))
        ends = jnp.stack([each[0], each.mean(axis=0)])

        def gain(gradient: Array) -> Array:
            def under(delta: Array, gradient: Array) -> Array:
                return -delta * problem.product(gradient)

            return jax.vmap(under)(problem.delta, gradient).sum(axis=0)

        return jax.vmap(gain)(ends).max(axis=0)

    return over_prompts(one, problem, window, total)


@jax.jit
def _gather(problem: Problem, window: Window, total: Array, index: Int[Array, "B P"]) -> Space:
    def one(problem: Problem, total: Array, index: Array) -> tuple[Array, ...]:
        real = index >= 0
        writes = problem.writes.take(jnp.maximum(index, 0))
        rows = jax.vmap(lambda layer: writes.rows(problem.table, layer))(jnp.arange(total.shape[1]))
        position = jnp.where(real, writes.position, 0)
        delta = jnp.where(real, problem.delta[:, jnp.maximum(index, 0)], 0.0)
        return index, position, rows, delta

    index, position, rows, delta = over_prompts(one, problem, total, index)
    return Space(problem.model, window, index, position, rows, delta, total)
