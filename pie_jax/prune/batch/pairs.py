"""Encoded pairs to padded batches of a few static shapes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pie_jax.devices.shapes import length_class, window_class
from pie_jax.tasks.encode import EncodedPair


@dataclass(frozen=True)
class PairBatch:
    """B pairs of prompts, padded on the right to one length; only `real` rows count.

    `clean` [B, T]; `corrupted` [B, M, T], M corrupted versions of each, or 0; `rows` [B] the pairs'
    places in the input; `target`, `distractor` [B] ids, 0 where not needed. `window`: outside the
    last so many positions of each prompt, its versions are the same.
    """

    clean: np.ndarray
    corrupted: np.ndarray
    length: np.ndarray
    target: np.ndarray
    distractor: np.ndarray
    rows: np.ndarray
    real: int
    window: int


def batches(pairs: Sequence[EncodedPair], size: int) -> list[PairBatch]:
    """Group pairs by length and cut them into batches; the last one repeats its last row.

    A group too small for one batch is merged with the next longer one: a few padded tokens
    cost less than another shape to compile. The content of a batch depends only on the pairs and
    the size, so that a resumed run has the same ones.
    """
    groups: dict[int, list[EncodedPair]] = defaultdict(list)
    for pair in pairs:
        groups[length_class(len(pair.clean))].append(pair)
    longest = max(groups, default=0)
    waiting: list[EncodedPair] = []
    result = []
    for length in sorted(groups):
        group = waiting + groups[length]
        if len(group) < size and length < longest:
            waiting = group
            continue
        waiting = []
        window = window_class(max(map(_changing, group)), length)
        result += [_batch(part, size, length, window) for part in _parts(group, size)]
    return result


def _parts(pairs: list[EncodedPair], size: int) -> Iterator[list[EncodedPair]]:
    for start in range(0, len(pairs), size):
        yield pairs[start : start + size]


def _changing(pair: EncodedPair) -> int:
    """Return how many positions there are from the first that differs in any version, all of them
    where there is none."""
    same = (
        next(i for i, (a, b) in enumerate(zip(pair.clean, version, strict=True)) if a != b)
        for version in pair.corrupted
    )
    return len(pair.clean) - min(same, default=0)


def _batch(pairs: list[EncodedPair], size: int, length: int, window: int) -> PairBatch:
    full = pairs + [pairs[-1]] * (size - len(pairs))

    def padded(rows: Sequence[tuple[int, ...]]) -> np.ndarray:
        out = np.zeros((size, length), np.int32)
        for row, ids in zip(out, rows, strict=True):
            row[: len(ids)] = ids
        return out

    versions = list(zip(*(pair.corrupted for pair in full), strict=True))
    corrupted = np.zeros((size, len(versions), length), np.int32)
    for index, version in enumerate(versions):
        corrupted[:, index] = padded(version)
    return PairBatch(
        clean=padded([pair.clean for pair in full]),
        corrupted=corrupted,
        length=np.array([len(pair.clean) for pair in full], np.int32),
        target=np.array([pair.target_id or 0 for pair in full], np.int32),
        distractor=np.array([pair.distractor_id or 0 for pair in full], np.int32),
        rows=np.array([pair.index for pair in full], np.int64),
        real=len(pairs),
        window=window,
    )
