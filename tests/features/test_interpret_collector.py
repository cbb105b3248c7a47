"""What a pass keeps, against a slow version that remembers every window."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from pie_jax.features.examples.assemble import decile_of, finish
from pie_jax.features.examples.collector import Collector, merge
from pie_jax.features.examples.hashing import content_hash, feature_seeds, mix
from pie_jax.features.examples.histogram import FINE, Statistics
from pie_jax.features.examples.options import ExampleOptions
from pie_jax.features.records import FeatureExamples, FeatureKey

KEYS = [FeatureKey(0, 3), FeatureKey(0, 4), FeatureKey(2, 1), FeatureKey(2, 9)]
# Fires in steps, so that windows tie; spreads widely; is on nearly always; never fires.
TIES, WIDE, DENSE, SILENT = range(4)
OPTIONS = ExampleOptions(window=8, top=6, per_decile=3, inactive=5, batch_size=16)
Batch = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _batches(count: int, seed: int = 0, first: int = 0) -> list[Batch]:
    rng = np.random.default_rng(seed)
    out = []
    for number in range(count):
        tokens = rng.integers(3, 40, (16, 8)).astype(np.int32)
        tokens[:, 0] = 1
        length = rng.integers(2, 9, 16).astype(np.int32)
        real = (np.arange(8) < length[:, None]) & (np.arange(8) > 0)
        tokens[np.arange(8) >= length[:, None]] = 0
        raw = rng.random((16, 8, 4))
        # Ranges that grow as the pass goes on.
        wide = np.exp(6 * raw[..., WIDE]) * (1 + number)
        values = np.stack(
            [
                (raw[..., TIES] > 0.9) * 2.0,
                wide * (rng.random((16, 8)) > 0.6),
                raw[..., DENSE] + 0.1,
                np.zeros((16, 8)),
            ],
            axis=-1,
        )
        values = (values * real[..., None]).astype(np.float32)
        index = np.arange(16) + 16 * (first + number)
        out.append((tokens, length, index.astype(np.int64), values))
    # A text that comes again, with the activations that it had.
    out[-1][0][3], out[-1][1][3], out[-1][3][3] = (out[0][i][0] for i in (0, 1, 3))
    return out


def _collect(batches: list[Batch], options: ExampleOptions = OPTIONS) -> Collector:
    collector = Collector(KEYS, options)
    for batch in batches:
        collector.update(*batch)
    return collector


def _same(one: list[FeatureExamples], two: list[FeatureExamples]) -> None:
    for a, b in zip(one, two, strict=True):
        for name in FeatureExamples.__dataclass_fields__:
            _same_value(getattr(a, name), getattr(b, name))


def _same_value(a: object, b: object) -> None:
    if isinstance(a, tuple) and isinstance(b, tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            _same_value(x, y)
    else:
        np.testing.assert_array_equal(a, b)


def _rows(batches: list[Batch], feature: int) -> list[tuple[float, int, int, tuple[int, ...]]]:
    """Return (maximum, priority, number, tokens) of every distinct window."""
    seed = feature_seeds([KEYS[feature]], OPTIONS.seed)
    out: dict[tuple[int, ...], tuple[float, int, int, tuple[int, ...]]] = {}
    for tokens, length, index, values in batches:
        priority = mix(content_hash(tokens, length) ^ seed)
        for b in range(len(index)):
            text = tuple(tokens[b, : length[b]].tolist())
            row = (float(values[b, :, feature].max()), int(priority[b]), int(index[b]), text)
            out.setdefault(text, row)
    return list(out.values())


@pytest.mark.parametrize("feature", range(4))
def test_keeps_what_a_slow_version_keeps(feature: int) -> None:
    batches = _batches(30)
    found = finish(_collect(batches))[feature]
    rows = _rows(batches, feature)
    active = [row for row in rows if row[0] > 0]
    maximum = max((row[0] for row in active), default=0.0)
    assert found.maximum == maximum
    assert found.tokens_active == sum((values[..., feature] > 0).sum() for *_, values in batches)
    assert found.tokens_seen == sum(int((length - 1).sum()) for _, length, *_ in batches)
    assert found.histogram.sum() == found.tokens_active
    # Highest first; which of equal ones are kept is drawn.
    top = sorted(active, key=lambda row: (-row[0], row[1]))[: OPTIONS.top]
    expected = sorted(top, key=lambda row: (-row[0], row[2]))
    assert [window.index for window in found.top] == [row[2] for row in expected]
    assert [tuple(window.tokens.tolist()) for window in found.top] == [row[3] for row in expected]
    assert all(window.maximum == row[0] for window, row in zip(found.top, expected, strict=True))
    silent = sorted((row for row in rows if row[0] == 0), key=lambda row: row[1])
    silent = sorted(silent[: OPTIONS.inactive], key=lambda row: row[2])
    assert [window.index for window in found.inactive] == [row[2] for row in silent]
    assert all(not window.activations.any() for window in found.inactive)


@pytest.mark.parametrize("feature", range(4))
def test_deciles_are_samples_of_their_range(feature: int) -> None:
    batches = _batches(30)
    found = finish(_collect(batches))[feature]
    active = [row for row in _rows(batches, feature) if row[0] > 0]
    of_row = decile_of(np.array([row[0] for row in active]), found.maximum)
    full = 0
    for number, group in enumerate(found.deciles):
        assert {number} >= set(decile_of(np.array([w.maximum for w in group]), found.maximum))
        there = [row for row, decile in zip(active, of_row, strict=True) if decile == number]
        assert len(group) == min(OPTIONS.per_decile, len(there))
        best = sorted(there, key=lambda row: row[1])[: OPTIONS.per_decile]
        full += {window.index for window in group} == {row[2] for row in best}
    # Bins that straddle two deciles may have kept a neighbour's window instead.
    assert full >= 5


def test_any_order_and_any_split_lead_to_the_same() -> None:
    batches = _batches(24)
    whole = finish(_collect(batches))
    parts = [_collect(batches[part::3]) for part in range(3)]
    for a, b, c in permutations(parts):
        _same(finish(merge(merge(a, b), c)), whole)
        _same(finish(merge(a, merge(b, c))), whole)
    _same(finish(_collect(batches[::-1])), whole)
    often = Collector(KEYS, OPTIONS)
    for batch in batches:
        often.update(*batch)
        often.compact()
    _same(finish(often), whole)


def test_a_feature_keeps_the_same_beside_other_features() -> None:
    batches = _batches(6)
    alone = Collector([KEYS[WIDE]], OPTIONS)
    for tokens, length, index, values in batches:
        alone.update(tokens, length, index, values[..., [WIDE]])
    _same(finish(alone), finish(_collect(batches))[WIDE : WIDE + 1])
    other = finish(_collect(batches, replace(OPTIONS, seed=1)))[WIDE]
    assert other.for_explaining != finish(alone)[0].for_explaining


def test_explaining_and_scoring_never_share_a_text() -> None:
    for found in finish(_collect(_batches(30)))[:SILENT]:
        assert not found.for_explaining & found.for_scoring
        one, two = found.explaining(), found.scoring()
        texts = [{tuple(window.tokens.tolist()) for window in part} for part in (one, two)]
        assert not texts[0] & texts[1]
        # Every window of a group has a part, and every group is dealt out evenly.
        assert len(one) - len(two) in (0, 1)
        shown = {w.index for group in (found.top, *found.deciles) for w in group}
        assert shown == {window.index for window in (*one, *two)}
        for decile in range(10):
            mine = [
                sum(decile_of(np.array([w.maximum]), found.maximum)[0] == decile for w in part)
                for part in (one, two)
            ]
            assert abs(mine[0] - mine[1]) <= 1
        silent = found.inactive_for(found.for_explaining), found.inactive_for(found.for_scoring)
        assert len(silent[0]) + len(silent[1]) == len(found.inactive)


def test_a_single_window_is_for_explaining() -> None:
    tokens, length, index, values = _batches(1)[0]
    values[1:] = 0
    collector = Collector(KEYS, OPTIONS)
    collector.update(tokens, length, index, values)
    found = finish(collector)[DENSE]
    assert [window.index for window in found.explaining()] == [0]
    assert found.scoring() == ()


def test_repeated_texts_count_once_among_windows_but_always_in_statistics() -> None:
    batches = _batches(2)
    again = [(t, n, index + 32, v) for t, n, index, v in batches]
    once, twice = finish(_collect(batches)), finish(_collect(again + batches))
    for a, b in zip(once, twice, strict=True):
        assert b.tokens_active == 2 * a.tokens_active
        assert np.array_equal(b.histogram, 2 * a.histogram)
        _same_value((a.top, a.deciles, a.inactive), (b.top, b.deciles, b.inactive))


def test_a_silent_feature_is_reported() -> None:
    found = finish(_collect(_batches(3)))[SILENT]
    assert found.key == KEYS[SILENT]
    assert (found.tokens_active, found.maximum, found.frequency) == (0, 0.0, 0.0)
    assert found.top == ()
    assert found.deciles == ((),) * 10
    assert found.explaining() == found.scoring() == ()
    assert len(found.inactive) == OPTIONS.inactive
    assert not found.histogram.any()
    assert finish(Collector(KEYS, OPTIONS))[0].frequency is None


def test_what_is_kept_stops_growing() -> None:
    sizes = []
    collector = Collector(KEYS, OPTIONS)
    for number in range(400):
        collector.update(*_batches(1, seed=number, first=number)[0])
        waiting = sum(len(e.window) for parts in collector._pending.values() for e in parts)
        assert waiting < 25_000
        if number in (99, 399):
            collector.compact()
            sizes.append(collector.nbytes)
    assert sizes[1] < 1.2 * sizes[0]
    slots = OPTIONS.top + 32 * OPTIONS.per_decile + OPTIONS.inactive
    assert sizes[1] < len(KEYS) * (slots * (8 * 8 + 100) + FINE * 8)


def test_histograms_of_growing_ranges_add_up() -> None:
    rng = np.random.default_rng(0)
    parts = [np.exp2(rng.uniform(-30, high, 50)).astype(np.float32) for high in (-9, 3, 0, 12)]
    feature = np.zeros(50, np.int64)

    def count(values: list[np.ndarray]) -> Statistics:
        out = Statistics.empty(1)
        for part in values:
            out.add(len(part), feature[: len(part)], part)
        return out

    whole = count(parts)
    for order in permutations(range(4)):
        merged = count([parts[order[0]]])
        for other in order[1:]:
            merged = count([parts[other]]).merged(merged)
        assert np.array_equal(merged.fine, whole.fine)
        assert merged.active == whole.active == 200
    every = np.concatenate(parts)
    exact, _ = np.histogram(every, bins=10, range=(0, every.max()))
    assert np.abs(whole.histogram(10)[0] - exact).max() <= 1
    # Exact where the steps are the fine bins.
    even = count([np.array([1, 2, 2, 3, 4], np.float32)])
    assert even.histogram(4).tolist() == [[1, 2, 1, 1]]
