"""Tables of windows of which only the first few of each group are kept, in any order of arrival.

Keeping the first k of a total order commutes with itself: the first k of the union are among the
first k of each part. So batches, shards and resumed passes lead to the same table.

Shapes: E entries, T positions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Entries(NamedTuple):
    """Windows by feature, [E] each: `feature` its place among the keys; `priority` a hash of the
    feature's seed and the window's tokens; `window` its number; `maximum`; `activations`
    [E, T], or [E, 0] where they are all zero.
    """

    feature: np.ndarray
    priority: np.ndarray
    window: np.ndarray
    maximum: np.ndarray
    activations: np.ndarray

    def take(self, which: np.ndarray) -> Entries:
        """Return some of the entries."""
        return Entries(*(column[which] for column in self))

    @property
    def nbytes(self) -> int:
        """Return the memory they take."""
        return sum(column.nbytes for column in self)


def no_entries(width: int) -> Entries:
    """Return an empty table of windows with `width` positions."""
    return Entries(
        np.zeros(0, np.int32),
        np.zeros(0, np.uint64),
        np.zeros(0, np.int64),
        np.zeros(0, np.float32),
        np.zeros((0, width), np.float32),
    )


def concatenate(parts: list[Entries]) -> Entries:
    """Put tables together."""
    return Entries(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


class Sampled(NamedTuple):
    """The entries kept, sorted by group, and the last entry of every full group."""

    entries: Entries
    last_of_full: Entries
    full: np.ndarray


def keep_first(entries: Entries, group: np.ndarray, limit: int, *, by_maximum: bool) -> Sampled:
    """Keep the `limit` entries of each group [E] with the lowest priority.

    `by_maximum` puts the highest maximum first, and leaves the priority to decide ties. Entries of
    one group with the same priority are the same text: the lowest window number stays.
    """
    # float32 to float64 and its negative are exact.
    height = -entries.maximum.astype(np.float64) if by_maximum else np.zeros(len(group))
    order = np.lexsort((entries.window, entries.priority, height, group))
    group, priority = group[order], entries.priority[order]
    fresh = np.ones(len(order), bool)
    fresh[1:] = (group[1:] != group[:-1]) | (priority[1:] != priority[:-1])
    order, group = order[fresh], group[fresh]
    start = np.flatnonzero(np.r_[True, group[1:] != group[:-1]][: len(group)])
    size = np.diff(np.r_[start, len(group)])
    rank = np.arange(len(group)) - np.repeat(start, size)
    full = start[size >= limit]
    return Sampled(
        entries.take(order[rank < limit]), entries.take(order[full + limit - 1]), group[full]
    )
