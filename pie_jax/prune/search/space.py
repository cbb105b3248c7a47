"""The space of a search for circuits: the most promising occurrences, in a short window.

Candidates stand in tiles of one position each, so that a gradient's product with all of them, and
what they write together, are small matrix products that read every row once.

Shapes: B batch, M corruptions, N occurrences, I tiles, P = I x TILE candidates, L layers,
W positions of the window, D model.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from pie_jax.devices.mesh import fetch
from pie_jax.devices.programs import program
from pie_jax.devices.shapes import bucket, multiple
from pie_jax.models.transformer import Transformer
from pie_jax.prune.batch.problem import Problem, over_prompts
from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.engine.selection import PADDING
from pie_jax.prune.search.clean_run import CleanRun, open_window, window_kl

TILE = 16
_LEAST_TILES = 32
# Points of the path from nothing to everything by which candidates are chosen.
_POINTS = (0.0, 0.25, 0.5, 0.75)
_EXACT = jax.lax.Precision.HIGHEST
# A gradient keeps about this many arrays of the size of an intervention.
KEPT_BY_GRADIENT = 8


class Space(NamedTuple):
    """One prompt's candidates and what they write; of a batch, [B, ...] but for the shared `model`.

    `occurrence` [P] which ones, -1 for padding; `position` [I] of each tile in the window; `rows`
    [I, TILE, L x D] what each writes per unit; `delta` [M, P]; `total` [M, L, W, D] what all
    occurrences write together.
    """

    model: Transformer
    window: CleanRun
    occurrence: Int[Array, "*B P"]
    position: Int[Array, "*B I"]
    rows: Float[Array, "*B I tile LD"]
    delta: Float[Array, "*B M P"]
    total: Float[Array, "*B M L W D"]

    @property
    def real(self) -> Bool[Array, "*B P"]:
        """Return which candidates are no padding."""
        return self.occurrence >= 0


def change_of(
    space: Space, members: Int[Array, " K"], share: Float[Array, " K"] | None = None
) -> Float[Array, "M L W D"]:
    """Return the `mlp_delta` that keeps a circuit's members, -1 for none, and removes the rest;
    with `share`, each member to a share of its change."""
    corruptions, layers, size, d = space.total.shape
    at = jnp.maximum(members, 0)
    weight = space.delta[:, at] * (members >= 0)
    if share is not None:
        weight = weight * share
    rows = space.rows.reshape(-1, layers * d)[at]
    here = jax.nn.one_hot(space.position[at // TILE], size, dtype=jnp.float32, axis=0)
    kept = jnp.einsum("mqk,kx->mqx", here * weight[:, None], rows, precision=_EXACT)
    return jnp.moveaxis(kept.reshape(corruptions, size, layers, d), 2, 1) - space.total


def kl_at(space: Space, change: Float[Array, "M L W D"]) -> Float[Array, ""]:
    """Return KL(clean || changed) at the last position, nats, the mean over corruptions."""
    return jax.vmap(lambda delta: window_kl(space.model, space.window, delta))(change).mean()


def circuit_kl(space: Space, members: Int[Array, " K"]) -> Float[Array, ""]:
    """Return KL(clean || circuit), nats."""
    return kl_at(space, change_of(space, members))


def kl_and_gain(
    space: Space, members: Int[Array, "S K"]
) -> tuple[Float[Array, " S"], Float[Array, "S P"]]:
    """Return the KL of circuits, and by how much each candidate's write lowers it to first order.

    Of a member it is by how much KL would rise if it were dropped. Padding is -inf.
    """
    change = jax.vmap(partial(change_of, space))(members)
    value, gradient = jax.vmap(jax.value_and_grad(partial(kl_at, space)))(change)
    here = jnp.moveaxis(gradient[:, :, :, space.position], 3, 2)

    # One after another: a product with one vector is several times faster than a narrow matrix's.
    def product(of: Float[Array, "I LD"]) -> Float[Array, "I tile"]:
        return jnp.einsum("ix,icx->ic", of, space.rows, precision=_EXACT)

    each = jax.lax.map(product, here.reshape(-1, len(space.position), space.rows.shape[-1]))
    gain = -(space.delta * each.reshape(len(members), *space.delta.shape)).sum(axis=1)
    return value, jnp.where(space.real, gain, -jnp.inf)


def search_space(inputs: BatchEvaluator, most: int) -> Space:
    """Return the candidates of a batch: at most `most` a prompt, the best by gradients on a path.

    An occurrence that no corruption changes is no candidate: keeping it changes nothing.
    """
    problem, window = inputs.problem, _windows(inputs.problem)
    live = (fetch(problem.delta) != 0).any(axis=1) & inputs.occurrences.valid
    if live.sum(axis=1).max(initial=0) > most:
        live = highest(fetch(_path_scores(problem, window, inputs.total)), live, most)
    index, position = tiles(live, fetch(problem.writes.position))
    return _gather(problem, window, inputs.total, inputs.put(index), inputs.put(position))


def tiles(
    live: Bool[np.ndarray, "B N"], position: Int[np.ndarray, "B N"]
) -> tuple[Int[np.ndarray, "B P"], Int[np.ndarray, "B I"]]:
    """Return the live occurrences by position, -1 for padding, and the position of each tile."""
    rows = [_row(np.flatnonzero(one), at) for one, at in zip(live, position, strict=True)]
    count = bucket(max(len(index) for index, _ in rows) // TILE, _LEAST_TILES)
    index = np.full((len(rows), count * TILE), PADDING, np.int32)
    where = np.zeros((len(rows), count), np.int32)
    for b, (members, positions) in enumerate(rows):
        index[b, : len(members)] = members
        where[b, : len(positions)] = positions
    return index, where


def _row(members: np.ndarray, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return one prompt's members, each position's padded to whole tiles, and tiles' positions."""
    parts, positions = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    for at in np.unique(position[members]):
        here = members[position[members] == at]
        part = np.full(multiple(len(here), TILE), PADDING, np.int32)
        part[: len(here)] = here
        parts.append(part)
        positions.append(np.full(len(part) // TILE, at, np.int32))
    return np.concatenate(parts), np.concatenate(positions)


def highest(
    score: Float[np.ndarray, "B N"], live: Bool[np.ndarray, "B N"], most: int
) -> Bool[np.ndarray, "B N"]:
    """Return which of the live ones have the `most` highest scores; of equal ones, the first."""
    order = np.argsort(-np.where(live, score, -np.inf), axis=1, kind="stable")[:, :most]
    best = np.zeros(live.shape, bool)
    np.put_along_axis(best, order, True, axis=1)
    return best & live


@program()
def _windows(problem: Problem) -> CleanRun:
    return over_prompts(open_window, problem)


@program()
def _path_scores(
    problem: Problem, window: CleanRun, total: Float[Array, "B M L W D"]
) -> Float[Array, "B N"]:
    """Return the larger gain of each occurrence: with nothing kept, or averaged on the path."""

    def one(problem: Problem, window: CleanRun, total: Array) -> Array:
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


@program()
def _gather(
    problem: Problem, window: CleanRun, total: Array, index: Int[Array, "B P"], position: Array
) -> Space:
    layers = jnp.arange(total.shape[2])

    def one(problem: Problem, index: Array) -> tuple[Array, Array]:
        real = index >= 0
        writes = problem.writes.take(jnp.maximum(index, 0))
        rows = jax.vmap(lambda layer: writes.rows(problem.table, layer), out_axes=1)(layers)
        delta = jnp.where(real, problem.delta[:, jnp.maximum(index, 0)], 0.0)
        return rows.reshape(-1, TILE, rows.shape[1] * rows.shape[2]), delta

    rows, delta = over_prompts(one, problem, index)
    return Space(problem.model, window, index, position, rows, delta, total)


def side_by_side(inputs: BatchEvaluator, circuits: int) -> int:
    """Return how many prompts with so many circuits each fit `chunk_bytes`; it divides B."""
    batch = len(inputs.rows)
    fit = batch * inputs.side_by_side() // (KEPT_BY_GRADIENT * circuits)
    return max(n for n in range(1, batch + 1) if batch % n == 0 and n <= max(1, fit))


def map_prompts(one: Callable[..., Any], chunk: int, space: Space, *arrays: Any) -> Any:
    """Apply `one(space, *arrays)` to every prompt, `chunk` side by side; each array is [B, ...]."""

    def of_prompt(parts: tuple[Any, ...]) -> Any:
        return one(Space(space.model, *parts[0]), *parts[1])

    return jax.lax.map(of_prompt, (tuple(space[1:]), arrays), batch_size=chunk)
