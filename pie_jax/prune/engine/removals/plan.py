"""Cones: the part of a run that a removal changes, and how removals share it.

Removing occurrences at layer l and position p changes nothing below layer l or before position p:
the rest is the clean run. Removals are sorted into chunks of one prompt that start at the same
position, those that start in low layers first, so that at every layer the chunks that changed
already stand in front.

Shapes: B batch, M corruptions, N occurrences, S sets, K members of a set, J chunks, C sets of a
chunk, L layers, W positions of the window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pie_jax.prune.engine.selection import PADDING


class Cones(NamedTuple):
    """Chunks of removals, [J] and [J, C] each; only the first `real` of J are.

    `prompt`, `corruption` [J] whose they are; `offset` [J] the first position that they compute,
    in the window; `members` [J, C, K]; `first` [J, C] the first layer that each changes;
    `active` [L] how many chunks have changed before a layer.
    """

    prompt: np.ndarray
    corruption: np.ndarray
    offset: np.ndarray
    members: np.ndarray
    first: np.ndarray
    active: np.ndarray
    real: np.ndarray


@dataclass(frozen=True)
class Starts:
    """Where each occurrence starts to change a prompt: `layer`, `position` [B, N] (in the window),
    and whether it changes anything at all; `last` [B] the last position of each prompt."""

    layer: np.ndarray
    position: np.ndarray
    changes: np.ndarray
    last: np.ndarray


@dataclass(frozen=True)
class ConePlan:
    """The chunks that compute the same number of positions, and which set each place holds.

    `prompts`, `sets` [P] name the sets and `places` [P, M] where their results stand in [J x C].
    """

    width: int
    cones: Cones
    prompts: np.ndarray
    sets: np.ndarray
    places: np.ndarray


def widths(window: int) -> list[int]:
    """Return the numbers of positions that chunks may compute: few, as each is compiled."""
    parts = 2 if window <= 8 else 4
    return sorted({max(1, -(-window * part // parts)) for part in range(1, parts + 1)})


def distinct(sets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return sets [B, S, K] with a prompt's repeated sets replaced by padding, and the index [B, S]
    of each set's first appearance."""
    out = np.full_like(sets, PADDING)
    same = np.zeros(sets.shape[:2], np.int64)
    for b, of_prompt in enumerate(np.sort(sets, axis=2)):
        _, first, inverse = np.unique(of_prompt, axis=0, return_index=True, return_inverse=True)
        same[b] = first[inverse.reshape(-1)]
        out[b, first] = sets[b, first]
    return out, same


def plan(
    starts: Starts, sets: np.ndarray, corruptions: int, layers: int, window: int, rows: int
) -> list[ConePlan]:
    """Sort the sets [B, S, K] of all prompts into chunks of about `rows` positions each.

    Sets that change nothing are left out.
    """
    batch, count, members = sets.shape
    first, width = _cone(starts, sets, layers)
    shape = _Shape(batch, count, members, corruptions, layers)
    waiting: list[list[int]] = [[] for _ in range(batch)]
    plans = []
    sizes = widths(window)
    below = 0
    for size in sizes:
        chunk = max(1, min(rows // size, count))
        chunks: list[tuple[int, list[int]]] = []
        for prompt in range(batch):
            fits = (width[prompt] > below) & (width[prompt] <= size)
            mine = np.array(waiting[prompt] + np.flatnonzero(fits).tolist(), np.int64)
            mine = mine[np.argsort(first[prompt, mine], kind="stable")]
            full = len(mine) if size == sizes[-1] else len(mine) // chunk * chunk
            waiting[prompt] = mine[full:].tolist()
            chunks += [(prompt, mine[i : i + chunk].tolist()) for i in range(0, full, chunk)]
        chunks.sort(key=lambda one: int(first[one[0], one[1]].min()))
        offset = np.maximum(starts.last + 1 - size, 0)
        plans.append(_pack(shape, size, chunk, chunks, sets, first, offset))
        below = size
    return plans


def _cone(starts: Starts, sets: np.ndarray, layers: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first layer that each set changes and how many positions from its first one on,
    [B, S]; 0 positions where it changes nothing."""
    at = np.maximum(sets, 0)
    row = np.arange(len(sets))[:, None, None]
    there = (sets != PADDING) & starts.changes[row, at]
    last = starts.last[:, None, None]
    first = np.where(there, starts.layer[row, at], layers - 1).min(axis=2, initial=layers - 1)
    position = np.where(there, starts.position[row, at], last + 1).min(axis=2, initial=1 << 30)
    return first, starts.last[:, None] + 1 - np.minimum(position, last[:, :, 0] + 1)


@dataclass(frozen=True)
class _Shape:
    batch: int
    sets: int
    members: int
    corruptions: int
    layers: int


def _pack(
    shape: _Shape,
    width: int,
    chunk: int,
    chunks: list[tuple[int, list[int]]],
    sets: np.ndarray,
    first: np.ndarray,
    offset: np.ndarray,
) -> ConePlan:
    """Lay chunks out in arrays whose sizes depend on the shapes alone."""
    versions = shape.corruptions
    capacity = versions * (shape.batch * shape.sets // chunk + shape.batch)
    cones = Cones(
        prompt=np.zeros(capacity, np.int32),
        corruption=np.zeros(capacity, np.int32),
        offset=np.zeros(capacity, np.int32),
        members=np.full((capacity, chunk, shape.members), PADDING, np.int32),
        first=np.full((capacity, chunk), shape.layers - 1, np.int32),
        active=np.zeros(shape.layers, np.int32),
        real=np.array(len(chunks) * versions, np.int32),
    )
    prompts, which, places = [], [], []
    for index, (prompt, mine) in enumerate(chunks):
        for version in range(versions):
            at = index * versions + version
            cones.prompt[at], cones.corruption[at] = prompt, version
            cones.offset[at] = offset[prompt]
            cones.members[at, : len(mine)] = sets[prompt, mine]
            cones.first[at, : len(mine)] = first[prompt, mine]
            cones.active[int(first[prompt, mine].min()) + 1 :] += 1
        prompts += [prompt] * len(mine)
        which += mine
        start = index * versions * chunk
        places += [
            [start + version * chunk + i for version in range(versions)] for i in range(len(mine))
        ]
    return ConePlan(
        width,
        cones,
        np.array(prompts, np.int64),
        np.array(which, np.int64),
        np.array(places, np.int64).reshape(-1, versions),
    )
