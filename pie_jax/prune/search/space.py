"""The space of a search for circuits: the most promising occurrences, in a short window.

Candidates stand in tiles of one place each, so that a gradient's product with all of them, and
what they write together, are small matrix products that read every row once. A place is a position;
where features write to their own layer alone, a layer and a position, and rows hold that layer's
write instead of mostly zeros.

Shapes: B batch, M corruptions, N occurrences, I tiles, P = I x TILE candidates, L layers, O layers
of a row (L, or 1), W positions of the window, Q = L / O x W places, D model.
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
from pie_jax.prune.search.clean_run import (
    CleanRun,
    kl_of,
    open_window,
    window_kl,
    window_predicted,
)

TILE = 16
# As many as 512 candidates fill at up to 16 places: prompts with short windows share one size, with
# each other and with what learning narrows them to.
_LEAST_TILES = 48
# Positions of prompts side by side that make a matrix product fast.
_LEAST_ROWS = 64
# Points of the path from nothing to everything by which candidates are chosen.
_POINTS = (0.0, 0.25, 0.5, 0.75)
_EXACT = jax.lax.Precision.HIGHEST
# A gradient keeps about this many arrays of the size of an intervention.
KEPT_BY_GRADIENT = 8


class Complement(NamedTuple):
    """What everything but a circuit should do: `null` [M, V], the log-probabilities with all
    occurrences removed; `weight` of its KL to them, beside the circuit's own."""

    null: Float[Array, "*B M V"]
    weight: Float[Array, "*B"]


class Space(NamedTuple):
    """One prompt's candidates and what they write; of a batch, [B, ...] but for the shared `model`.

    `occurrence` [P] which ones, -1 for padding; `place` [I] of each tile in the window; `rows`
    [I, TILE, O x D] what each writes per unit; `delta` [M, P]; `total` [M, L, W, D] what all
    occurrences write together; `complement` None where it has no weight.
    """

    model: Transformer
    window: CleanRun
    occurrence: Int[Array, "*B P"]
    place: Int[Array, "*B I"]
    rows: Float[Array, "*B I tile OD"]
    delta: Float[Array, "*B M P"]
    total: Float[Array, "*B M L W D"]
    complement: Complement | None = None

    @property
    def real(self) -> Bool[Array, "*B P"]:
        """Return which candidates are no padding."""
        return self.occurrence >= 0

    @property
    def own_layers(self) -> int:
        """Return L / O: how many of the model's layers have rows of their own, 1 where each row
        holds all of them."""
        return self.total.shape[-3] * self.total.shape[-1] // self.rows.shape[-1]


def change_of(
    space: Space, members: Int[Array, " K"], share: Float[Array, " K"] | None = None
) -> Float[Array, "M L W D"]:
    """Return the `mlp_delta` that keeps a circuit's members, -1 for none, and removes the rest;
    with `share`, each member to a share of its change."""
    corruptions, layers, size, d = space.total.shape
    width = layers // space.own_layers
    places = space.own_layers * size
    at = jnp.maximum(members, 0)
    weight = space.delta[:, at] * (members >= 0)
    if share is not None:
        weight = weight * share
    rows = space.rows.reshape(-1, width * d)[at]
    here = jax.nn.one_hot(space.place[at // TILE], places, dtype=jnp.float32, axis=0)
    kept = jnp.einsum("mqk,kx->mqx", here * weight[:, None], rows, precision=_EXACT)
    each = jnp.moveaxis(kept.reshape(corruptions, -1, size, width, d), 3, 2)
    return each.reshape(space.total.shape) - space.total


def kl_at(space: Space, change: Float[Array, "M L W D"]) -> Float[Array, ""]:
    """Return KL(clean || changed) at the last position, nats, the mean over corruptions."""
    return jax.vmap(lambda delta: window_kl(space.model, space.window, delta))(change).mean()


def loss_at(
    space: Space, change: Float[Array, "M L W D"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return what a circuit should have least of, and its KL alone, nats: the loss is KL, and that
    of the complement to nothing kept times its weight."""
    if space.complement is None:
        kl = kl_at(space, change)
        return kl, kl
    # What a circuit keeps is what its complement lacks. Both in one run: half as much to compile.
    runs = jnp.concatenate([change, -(change + space.total)])
    found = jax.vmap(lambda delta: window_predicted(space.model, space.window, delta))(runs)
    kept, left = jnp.split(found, 2)
    kl = jax.vmap(kl_of, (None, 0))(space.window.clean, kept).mean()
    away = jax.vmap(kl_of)(space.complement.null, left).mean()
    return kl + space.complement.weight * away, kl


def circuit_kl(space: Space, members: Int[Array, " K"]) -> Float[Array, ""]:
    """Return KL(clean || circuit), nats."""
    return kl_at(space, change_of(space, members))


def loss_and_gain(
    space: Space, members: Int[Array, "S K"]
) -> tuple[Float[Array, " S"], Float[Array, " S"], Float[Array, "S P"]]:
    """Return the loss of circuits, their KL, and by how much each candidate's write lowers the loss
    to first order.

    Of a member it is by how much the loss would rise if it were dropped. Padding is -inf.
    """
    change = jax.vmap(partial(change_of, space))(members)
    both = jax.value_and_grad(partial(loss_at, space), has_aux=True)
    (loss, kl), gradient = jax.vmap(both)(change)
    here = _at_places(gradient, space)

    # One after another: a product with one vector is several times faster than a narrow matrix's.
    def product(of: Float[Array, "I OD"]) -> Float[Array, "I tile"]:
        return jnp.einsum("ix,icx->ic", of, space.rows, precision=_EXACT)

    each = jax.lax.map(product, here.reshape(-1, *here.shape[2:]))
    gain = -(space.delta * each.reshape(len(members), *space.delta.shape)).sum(axis=1)
    return loss, kl, jnp.where(space.real, gain, -jnp.inf)


def _at_places(gradient: Float[Array, "S M L W D"], space: Space) -> Float[Array, "S M I OD"]:
    """Return the part of each gradient that a tile's rows meet."""
    circuits, corruptions, layers, size, d = gradient.shape
    width = layers // space.own_layers
    if width == layers:
        each = jnp.moveaxis(gradient[:, :, :, space.place], 3, 2)
    else:
        each = gradient[:, :, space.place // size, space.place % size]
    return each.reshape(circuits, corruptions, len(space.place), width * d)


def search_space(inputs: BatchEvaluator, most: int) -> Space:
    """Return the candidates of a batch: the best by gradients on a path, at most `most` a prompt
    with rows of all layers, and more in proportion where rows hold their own layer alone.

    An occurrence that no corruption changes is no candidate: keeping it changes nothing.
    """
    problem, window = inputs.problem, _windows(inputs.problem)
    place, width = _places(problem)
    most = most * problem.sizes[0] // width
    live = (fetch(problem.delta) != 0).any(axis=1) & inputs.occurrences.valid
    if live.sum(axis=1).max(initial=0) > most:
        live = highest(fetch(_path_scores(problem, window, inputs.total)), live, most)
    index, of_tile = tiles(live, place)
    return _gather(problem, window, inputs.total, inputs.put(index), inputs.put(of_tile), width)


def with_complement(inputs: BatchEvaluator, space: Space) -> Space:
    """Return a space in which the complement counts, if it has a weight in the options."""
    weight = inputs.options.search.complement
    if weight == 0:
        return space
    null = _null(space, side_by_side(inputs, 1))
    weights = inputs.put(np.full(len(inputs.rows), weight, np.float32))
    return space._replace(complement=Complement(null, weights))


def _places(problem: Problem) -> tuple[Int[np.ndarray, "B N"], int]:
    """Return the place of every occurrence, and how many layers its row holds."""
    layers, size = problem.sizes
    first, last = fetch(problem.writes.first), fetch(problem.writes.last)
    position = fetch(problem.writes.position)
    if layers == 1 or (first != last).any():
        return position, layers
    return first * size + position, 1


def tiles(
    live: Bool[np.ndarray, "B N"], place: Int[np.ndarray, "B N"]
) -> tuple[Int[np.ndarray, "B P"], Int[np.ndarray, "B I"]]:
    """Return the live occurrences by place, -1 for padding, and the place of each tile."""
    rows = [_row(np.flatnonzero(one), at) for one, at in zip(live, place, strict=True)]
    count = bucket(max(len(index) for index, _ in rows) // TILE, _LEAST_TILES)
    index = np.full((len(rows), count * TILE), PADDING, np.int32)
    where = np.zeros((len(rows), count), np.int32)
    for b, (members, places) in enumerate(rows):
        index[b, : len(members)] = members
        where[b, : len(places)] = places
    return index, where


def _row(members: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return one prompt's members, each place's padded to whole tiles, and tiles' places."""
    parts, places = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    for at in np.unique(place[members]):
        here = members[place[members] == at]
        part = np.full(multiple(len(here), TILE), PADDING, np.int32)
        part[: len(here)] = here
        parts.append(part)
        places.append(np.full(len(part) // TILE, at, np.int32))
    return np.concatenate(parts), np.concatenate(places)


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


@program("chunk")
def _null(space: Space, chunk: int) -> Float[Array, "B M V"]:
    """Return the log-probabilities with everything removed."""

    def one(space: Space) -> Array:
        return jax.vmap(partial(window_predicted, space.model, space.window))(-space.total)

    return map_prompts(one, chunk, space)


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


@program("width")
def _gather(
    problem: Problem,
    window: CleanRun,
    total: Array,
    index: Int[Array, "B P"],
    place: Int[Array, "B I"],
    width: int,
) -> Space:
    def one(problem: Problem, index: Array) -> tuple[Array, Array]:
        real = index >= 0
        writes = problem.writes.take(jnp.maximum(index, 0))
        if width < total.shape[2]:
            # Counted from each one's own layer.
            writes = writes._replace(first=jnp.zeros_like(index), last=jnp.zeros_like(index))
        layers = jnp.arange(width)
        rows = jax.vmap(lambda layer: writes.rows(problem.table, layer), out_axes=1)(layers)
        delta = jnp.where(real, problem.delta[:, jnp.maximum(index, 0)], 0.0)
        return rows.reshape(-1, TILE, rows.shape[1] * rows.shape[2]), delta

    rows, delta = over_prompts(one, problem, index)
    return Space(problem.model, window, index, place, rows, delta, total)


def side_by_side(inputs: BatchEvaluator, circuits: int) -> int:
    """Return how many prompts with so many circuits each fit `chunk_bytes`; it divides B.

    Where the model's weights do not fit themselves, reading them is what costs: at least so many
    prompts that their positions share it.
    """
    batch, config = len(inputs.rows), inputs.problem.model.config
    fit = batch * inputs.side_by_side() // (KEPT_BY_GRADIENT * circuits)
    weights = 4 * config.num_layers * config.d_model * (3 * config.d_mlp + 2 * config.d_model)
    if weights > inputs.options.bytes_at_once():
        rows = circuits * inputs.problem.delta.shape[1] * inputs.problem.sizes[1]
        fit = max(fit, _LEAST_ROWS // rows)
    return max(n for n in range(1, batch + 1) if batch % n == 0 and n <= max(1, fit))


def map_prompts(one: Callable[..., Any], chunk: int, space: Space, *arrays: Any) -> Any:
    """Apply `one(space, *arrays)` to every prompt, `chunk` side by side; each array is [B, ...]."""

    def of_prompt(parts: tuple[Any, ...]) -> Any:
        return one(Space(space.model, *parts[0]), *parts[1])

    return jax.lax.map(of_prompt, (tuple(space[1:]), arrays), batch_size=chunk)
