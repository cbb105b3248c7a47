"""The streamed product equals the gathered one and a loop; the choice between them counts bytes."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from prune_helpers import to_bfloat16

from benchmarks.peers.streamed.choice import bytes_moved, form, whole_block
from benchmarks.peers.streamed.scan import by_feature, streamed_gradient_times_write
from pie_jax.kernels import Writes, gradient_times_write

# Sums of at most a hundred products of float32 numbers around one.
TOLERANCE = 1e-5
BATCH, WIDTH, LENGTH, MODEL = 3, 4, 5, 6


class Case(NamedTuple):
    decoder: np.ndarray
    feature: np.ndarray
    prompt: np.ndarray
    position: np.ndarray
    valid: np.ndarray
    gradient: np.ndarray


def make(seed: int, features: int, count: int, *, skewed: bool = False) -> Case:
    rng = np.random.default_rng(seed)
    feature = rng.integers(0, features, count)
    return Case(
        rng.standard_normal((features, WIDTH, MODEL)).astype(np.float32),
        np.minimum(feature, 1) if skewed else feature,
        rng.integers(0, BATCH, count),
        rng.integers(0, LENGTH, count),
        rng.random(count) < 0.8,
        rng.standard_normal((BATCH, WIDTH, LENGTH, MODEL)).astype(np.float32),
    )


def streamed(case: Case, block: int, whole: bool | None) -> jax.Array:
    def run(decoder: jax.Array, gradient: jax.Array) -> jax.Array:
        arrays = (jnp.asarray(array) for array in case[1:5])
        at = by_feature(*arrays, len(case.decoder))
        return streamed_gradient_times_write(decoder, at, gradient, block, whole)

    return jax.jit(run)(jnp.asarray(case.decoder), jnp.asarray(case.gradient))


def slow(case: Case) -> np.ndarray:
    rows = case.decoder.astype(np.float64)[case.feature]
    gradient = case.gradient.astype(np.float64)[case.prompt, :, case.position]
    return np.where(case.valid, (rows * gradient).sum((1, 2)), 0)


def assert_near(ours: jax.Array, theirs: np.ndarray) -> None:
    assert ours.dtype == jnp.float32
    scale = np.abs(theirs).max(initial=1)
    np.testing.assert_allclose(ours, theirs, atol=TOLERANCE * scale)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    ("features", "count", "block"), [(1, 1, 4), (40, 300, 16), (64, 128, 16), (50, 129, 50)]
)
def test_equals_the_loop(features: int, count: int, block: int, whole: bool):
    """Whether or not blocks divide F and chunks divide N."""
    case = make(0, features, count)
    assert_near(streamed(case, block, whole), slow(case))


@pytest.mark.parametrize("whole", [True, False])
def test_many_occurrences_of_one_feature(whole: bool):
    """A block with several chunks of occurrences beside blocks with none."""
    case = make(1, 40, 600, skewed=True)
    assert_near(streamed(case, 8, whole), slow(case))


@pytest.mark.parametrize("whole", [True, False])
def test_bfloat16_is_summed_in_float32(whole: bool):
    case = make(2, 40, 200)
    rounded = case._replace(decoder=to_bfloat16(case.decoder))
    assert_near(streamed(rounded, 16, whole), slow(rounded))


@pytest.mark.parametrize("whole", [True, False, None])
def test_equals_the_gathered_form(whole: bool | None):
    """One source layer of a deeper model, prompt by prompt."""
    case, layer, layers = make(3, 30, 200), 2, 2 + WIDTH
    ours = streamed(case, 16, whole)
    table = jnp.asarray(case.decoder.reshape(-1, MODEL))
    start = jnp.asarray(case.feature * WIDTH)
    first = jnp.full_like(start, layer)
    at = Writes(start, first, jnp.full_like(start, layers - 1), jnp.asarray(case.position))
    for b in range(BATCH):
        whole_gradient = np.zeros((layers, LENGTH, MODEL), np.float32)
        whole_gradient[layer:] = case.gradient[b]
        theirs = gradient_times_write(table, at, jnp.asarray(whole_gradient))
        mine = case.valid & (case.prompt == b)
        assert_near(ours[mine], np.asarray(theirs)[mine])


def test_parts_of_the_decoder_add_up():
    """A decoder that is not on the device comes in parts; occurrences of others are not valid."""
    case = make(6, 40, 200)
    total = jnp.zeros(200)
    for start, end in ((0, 15), (15, 30), (30, 40)):
        part = case._replace(
            decoder=case.decoder[start:end],
            feature=case.feature - start,
            valid=case.valid & (case.feature >= start) & (case.feature < end),
        )
        total += streamed(part, 8, None)
    assert_near(total, slow(case))


def test_nothing_valid_and_no_block():
    case = make(4, 30, 20)
    nobody = case._replace(valid=np.zeros(20, bool))
    assert not streamed(nobody, 16, True).any()
    with pytest.raises(ValueError, match="block 0 must be at least 1"):
        streamed(case, 0, True)


def test_sorted_by_feature_and_back():
    case = make(5, 9, 50)
    at = by_feature(*(jnp.asarray(array) for array in case[1:5]), 9)
    assert (np.diff(at.feature) >= 0).all()
    real = int(case.valid.sum())
    assert (np.asarray(at.feature[real:]) == 9).all()
    there = np.asarray(at.order)[:real]
    np.testing.assert_array_equal(at.feature[:real], case.feature[there])
    np.testing.assert_array_equal(at.prompt[:real], case.prompt[there])
    np.testing.assert_array_equal(at.restore(at.order.astype(jnp.float32)), np.arange(50))


@pytest.mark.parametrize(
    ("occurrences", "expected"),
    [
        ([10, 10], "gathered"),
        ([100, 100], "gathered"),
        ([101, 100], "streamed"),
        ([500, 0], "streamed"),
    ],
)
def test_the_form_that_moves_fewer_bytes(occurrences: list[int], expected: str):
    """Features 100; the first layer writes to two layers, so it counts twice."""
    assert form(occurrences, 100, [2, 1], 1024) == expected
    moved = {
        kind: bytes_moved(kind, occurrences, 100, [2, 1], 1024) for kind in ("gathered", "streamed")
    }
    assert moved["streamed"] == 100 * 3 * 1024
    assert moved["gathered"] == (2 * occurrences[0] + occurrences[1]) * 1024
    assert moved[expected] == min(moved.values())


def test_counts_and_widths_go_together():
    with pytest.raises(ValueError, match="1 counts of occurrences for 2 layers"):
        form([1], 100, [2, 1], 4)


def test_whole_blocks_where_many_triples_are_asked_for():
    assert whole_block(1000, 100, 144)
    assert not whole_block(10, 100, 144)


@pytest.mark.parametrize("whole", [True, False])
def test_the_streamed_product_by_the_gradient(whole: bool):
    rng = np.random.default_rng(0)
    features, width, model, count = 40, 3, 8, 30
    decoder = jnp.asarray(rng.standard_normal((features, width, model)), jnp.float32)
    feature, prompt = rng.integers(0, features, count), rng.integers(0, 2, count)
    position, valid = rng.integers(0, 5, count), np.arange(count) < 26
    found = by_feature(*map(jnp.asarray, (feature, prompt, position, valid)), features)
    gradient = jnp.asarray(rng.standard_normal((2, width, 5, model)), jnp.float32)

    def loss(gradient):
        product = streamed_gradient_times_write(decoder, found, gradient, block=16, whole=whole)
        return jnp.sin(product).sum()

    def gathered(gradient):
        rows = decoder[feature] * gradient[prompt, :, position]
        return jnp.where(valid, jnp.sin(rows.sum((1, 2))), 0.0).sum()

    expected = jax.grad(gathered)(gradient)
    assert abs(expected).max() > 0.1
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(gradient), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(NotImplementedError, match="gradient_times_write"):
        jax.grad(lambda d: streamed_gradient_times_write(d, found, gradient).sum())(decoder)
