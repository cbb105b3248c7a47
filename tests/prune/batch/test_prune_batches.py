"""Static shapes: buckets of sizes, and encoded pairs cut into padded batches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pie_jax.devices.shapes import bucket, coarse, length_class, multiple, window_class
from pie_jax.prune.batch.occurrences import occurrences_class
from pie_jax.prune.batch.pairs import PairBatch, batches
from pie_jax.tasks import EncodedPair

sizes = st.integers(0, 10**7)
leasts = st.sampled_from([1, 2, 16, 64])


@given(sizes, leasts)
def test_a_bucket_holds_its_size_and_wastes_little(size: int, least: int):
    """At most half the size again, from the least on; 2 x 1.5 rounds to 1 x 2 there."""
    found = bucket(size, least)
    assert size <= found
    assert found >= least
    if size >= max(least, 2):
        assert found <= 1.5 * size
    assert bucket(found, least) == found


@given(sizes, sizes, leasts)
def test_buckets_are_monotone(a: int, b: int, least: int):
    assert bucket(min(a, b), least) <= bucket(max(a, b), least)


@given(sizes, leasts, st.sampled_from([2, 4]))
def test_coarse_sizes_hold_what_they_are_for(size: int, least: int, factor: int):
    found = coarse(size, least, factor)
    assert size <= found
    assert found == least or found < factor * size
    assert coarse(found, least, factor) == found


def test_lengths_and_windows_are_few():
    """All of pruning is compiled for each pair of them."""
    assert sorted({length_class(size) for size in range(129)}) == [20, 44, 64, 96, 128]
    windows = [8, 12, 20, 32, 44, 64, 96, 128]
    assert sorted({window_class(size, 128) for size in range(129)}) == windows
    assert {window_class(size, 44) for size in range(45)} == {8, 12, 20, 32, 44}
    assert length_class(129) == window_class(129, 1000) == 192


def test_prompts_of_a_length_class_have_one_number_of_occurrences():
    """With 15 active features a layer the demo's prompts have 72 to 98 occurrences a token, the
    least and the most of 24 IOI prompts of 9 to 64 tokens: short and long ones of a class meet the
    same programs."""
    for shortest, longest in ((9, 20), (21, 44), (45, 64)):
        length = length_class(longest)
        assert length_class(shortest) == length
        few, many = 72 * shortest, 98 * longest
        assert occurrences_class(few, length) == occurrences_class(many, length) >= many
    # One more than fits gets four times the room; nothing is dropped.
    assert occurrences_class(20 * 128 + 1, 20) == 20 * 512


@given(st.integers(1, 300), st.integers(1, 300))
def test_a_window_is_no_longer_than_its_prompt(positions: int, length: int):
    assert min(positions, length) <= window_class(min(positions, length), length) <= length


def test_a_window_begins_where_the_first_version_differs():
    """The others differ later: what they leave as it was is still in the window."""
    clean = tuple(range(1, 41))

    def version(at: int) -> tuple[int, ...]:
        return (*clean[:at], 99, *clean[at + 1 :])

    pair = EncodedPair(0, clean, (version(36), version(12), version(30)), 1, 2)
    (batch,) = batches([pair], 1)
    assert batch.window == window_class(40 - 12, 44) == 32


def test_buckets_are_few():
    assert sorted({bucket(size) for size in range(200)}) == [16, 24, 32, 48, 64, 96, 128, 192, 256]


@given(sizes, st.integers(1, 1000))
def test_multiple(size: int, of: int):
    found = multiple(size, of)
    assert found % of == 0
    assert size <= found < size + of


def pair(index: int, length: int) -> EncodedPair:
    clean = tuple(range(index, index + length))
    corrupted = tuple(range(index + 1, index + length + 1))
    return EncodedPair(index, clean, (corrupted,), 100 + index, None if index == 3 else 7)


# Nine that pad to 20 and two to 44 positions.
LENGTHS = [9, 17, 16, 8, 12, 24, 8, 30, 10, 9, 16]
PAIRS = [pair(index, length) for index, length in enumerate(LENGTHS)]
# What cannot fill a batch joins the next longer ones.
WIDTHS = {
    1: [20] * 9 + [44] * 2,
    2: [20] * 5 + [44],
    3: [20] * 3 + [44],
    8: [20] * 2 + [44],
    11: [44],
    20: [44],
}


@pytest.mark.parametrize("size", WIDTHS)
def test_every_pair_is_in_one_batch(size: int):
    found = batches(PAIRS, size)
    assert [batch.clean.shape[1] for batch in found] == WIDTHS[size]
    real = [row for batch in found for row in batch.rows[: batch.real].tolist()]
    assert sorted(real) == list(range(len(PAIRS)))
    for batch in found:
        check(batch, size)


def check(batch: PairBatch, size: int) -> None:
    assert len(batch.rows) == len(batch.clean) == size
    assert 1 <= batch.real <= size
    for row in range(size):
        source = PAIRS[int(batch.rows[row])]
        length = len(source.clean)
        assert batch.length[row] == length <= batch.clean.shape[1]
        for padded, ids in (
            (batch.clean, source.clean),
            (batch.corrupted[:, 0], source.corrupted[0]),
        ):
            np.testing.assert_array_equal(padded[row, :length], ids)
            assert not padded[row, length:].any()
        assert batch.target[row] == source.target_id
        assert batch.distractor[row] == (source.distractor_id or 0)
        if row >= batch.real:
            assert batch.rows[row] == batch.rows[batch.real - 1]


def test_the_order_of_the_input_is_kept_within_a_shape():
    rows = [batch.rows[: batch.real].tolist() for batch in batches(PAIRS, 2)]
    assert rows == [[0, 1], [2, 3], [4, 6], [8, 9], [10], [5, 7]]


def test_no_pairs_no_batches():
    assert batches([], 4) == []
