"""Each feature's examples, assembled from what a pass has kept.

Shapes: E windows of one feature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pie_jax.features.examples.collector import Collector
from pie_jax.features.examples.hashing import mix
from pie_jax.features.examples.reservoir import Entries, concatenate
from pie_jax.features.records import FeatureExamples, FeatureKey, Window

DECILES = 10
# One in six non-activating windows is for contrast in explanations, the rest for scoring.
_CONTRAST = 6
# Another draw from the same seeds than that of which windows to keep.
_SPLIT = np.uint64(0x5911)

Neighbours = Mapping[FeatureKey, Sequence[tuple[int, float]]]


def finish(collector: Collector, neighbours: Neighbours | None = None) -> list[FeatureExamples]:
    """Return the examples of every feature, in the order of the keys."""
    collector.compact()
    tables = (collector.top, collector.sampled, collector.inactive)
    # Tables are sorted by feature.
    ranges = [
        np.searchsorted(table.feature, np.arange(len(collector.keys) + 1)) for table in tables
    ]
    histograms = collector.statistics.histogram(collector.options.histogram)
    out = []
    for place, key in enumerate(collector.keys):
        parts = [
            table.take(np.arange(ends[place], ends[place + 1]))
            for table, ends in zip(tables, ranges, strict=True)
        ]
        found = tuple((neighbours or {}).get(key, ()))
        out.append(_feature(collector, place, parts, histograms[place], found))
    return out


def _feature(
    collector: Collector,
    place: int,
    parts: list[Entries],
    histogram: np.ndarray,
    neighbours: tuple[tuple[int, float], ...],
) -> FeatureExamples:
    statistics, options = collector.statistics, collector.options
    top, sampled, inactive = parts
    maximum = float(statistics.maximum[place])
    every = _distinct(concatenate([top, sampled]))
    decile = decile_of(every.maximum, maximum)
    groups, shown = [], [top.priority]
    for number in range(DECILES):
        group = every.take(np.flatnonzero(decile == number))
        group = group.take(np.argsort(group.priority)[: options.per_decile])
        groups.append(_windows(collector, group.take(np.argsort(group.window))))
        shown.append(group.priority)
    used = np.flatnonzero(np.isin(every.priority, np.concatenate(shown)))
    explaining, scoring = split_active(every.priority[used], every.window[used], decile[used])
    contrast, held_out = split_inactive(inactive.priority, inactive.window)
    return FeatureExamples(
        key=collector.keys[place],
        tokens_seen=statistics.tokens,
        tokens_active=int(statistics.active[place]),
        maximum=maximum,
        histogram=histogram,
        top=_windows(collector, top.take(np.lexsort((top.window, -top.maximum)))),
        deciles=tuple(groups),
        inactive=_windows(collector, inactive.take(np.argsort(inactive.window))),
        neighbours=neighbours,
        for_explaining=explaining | contrast,
        for_scoring=scoring | held_out,
    )


def _windows(collector: Collector, entries: Entries) -> tuple[Window, ...]:
    out = []
    for number, activations in zip(entries.window.tolist(), entries.activations, strict=True):
        tokens = collector.text(number)
        row = activations[: len(tokens)] if len(activations) else np.zeros(len(tokens), np.float32)
        out.append(Window(number, tokens, row))
    return tuple(out)


def decile_of(maximum: np.ndarray, highest: float) -> np.ndarray:
    """Return which tenth of (0, highest] each window's maximum [E] lies in, from 0."""
    if highest <= 0:
        return np.zeros(len(maximum), np.int64)
    share = maximum.astype(np.float64) / highest
    return np.clip(np.ceil(share * DECILES).astype(np.int64) - 1, 0, DECILES - 1)


def _distinct(entries: Entries) -> Entries:
    """Drop what stands in both tables: equal priority is equal text; the first window stays."""
    order = np.lexsort((entries.window, entries.priority))
    priority = entries.priority[order]
    fresh = np.r_[True, priority[1:] != priority[:-1]][: len(order)]
    return entries.take(order[fresh])


def split_active(
    priority: np.ndarray, index: np.ndarray, decile: np.ndarray
) -> tuple[frozenset[int], frozenset[int]]:
    """Deal windows [E] out in turn to explaining and scoring, decile by decile from the highest, in
    random order within."""
    index = index[np.lexsort((mix(priority ^ _SPLIT), -decile))]
    return _indices(index[::2]), _indices(index[1::2])


def split_inactive(
    priority: np.ndarray, index: np.ndarray
) -> tuple[frozenset[int], frozenset[int]]:
    """Return which non-activating windows [E] are for explaining, and which for scoring."""
    index = index[np.argsort(mix(priority ^ _SPLIT))]
    contrast = np.arange(len(index)) % _CONTRAST == _CONTRAST - 1
    return _indices(index[contrast]), _indices(index[~contrast])


def _indices(values: np.ndarray) -> frozenset[int]:
    return frozenset(values.tolist())
