"""`write` equals a loop over occurrences and layers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from prune_helpers import random_writes, slow_write, to_bfloat16

from pie_jax.kernels import Writes, write, writes

LAYERS, LENGTH, WIDTH = 4, 6, 5
SIZES = {"layers": LAYERS, "length": LENGTH, "d_model": WIDTH}
# Sums of some twenty products of float32 numbers around one.
TOLERANCE = 1e-5


def weights(count: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(count).astype(np.float32)


def check(table: np.ndarray, at: Writes, weight: np.ndarray) -> jax.Array:
    ours = write(jnp.asarray(table), at, jnp.asarray(weight), LAYERS, LENGTH)
    assert ours.dtype == jnp.float32
    theirs = slow_write(table, at, weight, LAYERS, LENGTH)
    np.testing.assert_allclose(ours, theirs, atol=TOLERANCE)
    return ours


@pytest.mark.parametrize("cross_layer", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_loop(seed: int, cross_layer: bool):
    table, at = random_writes(seed, 23, cross_layer=cross_layer, **SIZES)
    if not cross_layer:
        assert (at.first == at.last).all()
    check(table, at, weights(23))


@pytest.mark.parametrize("chunk", [1, 7, 22, 23, 24])
def test_chunks_add_up(monkeypatch: pytest.MonkeyPatch, chunk: int):
    """Whether the last chunk is full, nearly empty or the only one."""
    table, at = random_writes(4, 23, **SIZES)
    # What padding points at must not count: the first row is huge.
    table[0] *= 1e6
    monkeypatch.setattr(writes, "_CHUNK", chunk)
    check(table, at, weights(23))


def test_many_occurrences_at_one_place_add_up():
    table, at = random_writes(5, 23, **SIZES)
    at = at._replace(position=jnp.full(23, 2, jnp.int32))
    ours = check(table, at, weights(23))
    assert not np.delete(np.asarray(ours), 2, axis=1).any()


def test_nothing_is_written_outside_the_targets():
    table, at = random_writes(6, 1, **SIZES)
    at = Writes(*(jnp.asarray([x], jnp.int32) for x in (0, 1, 2, 3)))
    ours = np.asarray(check(table, at, np.ones(1, np.float32)))
    np.testing.assert_array_equal(ours[1, 3], table[0])
    np.testing.assert_array_equal(ours[2, 3], table[1])
    assert np.count_nonzero(ours) == 2 * WIDTH


def test_rows_that_nobody_owns_may_hold_anything():
    table, at = random_writes(7, 9, **SIZES)
    table[0], table[-1] = np.nan, np.inf
    assert np.isfinite(check(table, at, weights(9))).all()


def test_bfloat16_rows_are_summed_in_float32():
    """Against float64 of the rounded rows: in bfloat16 sums would be off by a hundredth."""
    table, at = random_writes(8, 23, **SIZES)
    rounded = to_bfloat16(table)
    assert np.abs(rounded.astype(np.float32) - table).max() > 100 * TOLERANCE
    check(rounded, at, weights(23))


def test_repeats_bit_for_bit():
    table, at = random_writes(9, 23, **SIZES)
    arguments = (jnp.asarray(table), at, jnp.asarray(weights(23)), LAYERS, LENGTH)
    np.testing.assert_array_equal(write(*arguments), write(*arguments))


def test_take_picks_occurrences():
    _, at = random_writes(10, 9, **SIZES)
    index = jnp.asarray([4, 4, 0])
    for ours, all_ in zip(at.take(index)[:4], at[:4], strict=True):
        np.testing.assert_array_equal(ours, np.asarray(all_)[[4, 4, 0]])


def test_rows_are_zero_outside_the_targets():
    table, at = random_writes(11, 9, **SIZES)
    for layer in range(LAYERS):
        rows = np.asarray(at.rows(jnp.asarray(table), jnp.asarray(layer)))
        for n in range(9):
            first, last = int(at.first[n]), int(at.last[n])
            inside = first <= layer <= last
            expected = table[int(at.start[n]) + layer - first] if inside else np.zeros(WIDTH)
            np.testing.assert_array_equal(rows[n], expected)
