"""`active_union` equals the dense encoder and `jnp.nonzero`, without making dense arrays."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kernel_helpers import array_shapes

from pie_jax.kernels import ActiveUnion, active_union
from pie_jax.kernels.bits import set_bits
from pie_jax.transcoders.modules import Encoder

Parts = tuple[jax.Array, jax.Array, jax.Array | None]


union = jax.jit(active_union, static_argnames=("capacity", "block"))


def dense_union(encoder: Parts, runs: jax.Array, real: jax.Array, capacity: int) -> ActiveUnion:
    """The first `capacity` entries of the same, from the whole [R, T, F]."""
    apply = Encoder(*encoder)
    activation = np.stack([apply(run) for run in runs])
    activation = np.where(np.asarray(real)[:, None], activation, 0.0)
    position, feature = np.nonzero((activation > 0).any(0))
    values = activation[:, position, feature]

    def fit(array: np.ndarray) -> jax.Array:
        array = array[..., :capacity]
        pad = capacity - array.shape[-1]
        return jnp.asarray(np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, pad)]))

    return ActiveUnion(fit(position), fit(feature), fit(values), jnp.asarray(len(position)))


def assert_equal(ours: ActiveUnion, theirs: ActiveUnion) -> None:
    for name, a, b in zip(ActiveUnion._fields, ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


def whole_numbers(
    seed: int, features: int, width: int, *, threshold: bool, dtype: str = "float32"
) -> Parts:
    """An encoder whose sums are exact in any order, so that many lie exactly on the threshold."""
    rng = np.random.default_rng(seed)
    weight = rng.integers(-2, 3, (features, width))
    bias, limit = rng.integers(-3, 2, features), rng.integers(-1, 4, features)
    kind = jnp.dtype(dtype)
    return (
        jnp.asarray(weight, kind),
        jnp.asarray(bias, kind),
        jnp.asarray(limit, kind) if threshold else None,
    )


def whole_runs(seed: int, runs: int, length: int, width: int) -> jax.Array:
    rng = np.random.default_rng(seed + 1000)
    return jnp.asarray(rng.integers(-2, 3, (runs, length, width)), jnp.float32)


@settings(max_examples=8)
@given(
    seed=st.integers(0, 10_000),
    features=st.integers(1, 90),
    width=st.integers(1, 5),
    length=st.integers(1, 6),
    runs=st.integers(1, 3),
    block=st.integers(1, 100),
    capacity=st.integers(1, 120),
    threshold=st.booleans(),
    dtype=st.sampled_from(["float32", "bfloat16"]),
)
@example(0, 64, 3, 4, 2, 32, 64, True, "float32")
@example(1, 65, 3, 4, 2, 32, 300, False, "float32")
@example(2, 33, 3, 4, 2, 100, 300, True, "bfloat16")
def test_equals_the_dense_encoder(
    seed: int,
    features: int,
    width: int,
    length: int,
    runs: int,
    block: int,
    capacity: int,
    threshold: bool,
    dtype: str,
):
    """Any shape, whether or not blocks divide F and the list is long enough; ties are inactive."""
    encoder = whole_numbers(seed, features, width, threshold=threshold, dtype=dtype)
    x = whole_runs(seed, runs, length, width)
    real = jnp.asarray(np.random.default_rng(seed).random(length) < 0.7)
    theirs = dense_union(encoder, x, real, capacity)
    ours = union(*encoder, x, real, capacity, block)
    assert int(ours.count) == int(theirs.count)
    if int(ours.count) <= capacity:
        assert_equal(ours, theirs)


TOLERANCE = 1e-5  # Sums of 16 products of float32 numbers around one.


@pytest.mark.parametrize("threshold", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_real_numbers(dtype: str, threshold: bool):
    """Sums may differ in the last bit, so no activation here is that close to the threshold."""
    rng = np.random.default_rng(0)
    weight, bias, limit = (rng.standard_normal(s) for s in ((300, 16), 300, 300))
    kind = jnp.dtype(dtype)
    encoder = (
        jnp.asarray(weight, kind),
        jnp.asarray(bias, kind),
        jnp.asarray(np.abs(limit), kind) if threshold else None,
    )
    runs = jnp.asarray(rng.standard_normal((2, 5, 16)), jnp.float32)
    real = jnp.asarray([False, True, True, True, False])
    apply = Encoder(*encoder)
    pre = np.stack([apply.preactivations(run) for run in runs])
    limit_32 = 0.0 if encoder[2] is None else np.asarray(encoder[2], np.float32)
    assert np.abs(pre - limit_32).min() > TOLERANCE
    ours = union(*encoder, runs, real, 1500, block=64)
    theirs = dense_union(encoder, runs, real, 1500)
    assert ours.activation.dtype == jnp.float32
    assert 100 < int(ours.count) < 900
    np.testing.assert_array_equal(ours.count, theirs.count)
    np.testing.assert_array_equal(ours.position, theirs.position)
    np.testing.assert_array_equal(ours.feature, theirs.feature)
    np.testing.assert_allclose(ours.activation, theirs.activation, atol=TOLERANCE)


@pytest.mark.parametrize("threshold", [True, False])
def test_equal_to_the_threshold_is_inactive(threshold: bool):
    """Two features on the limit, one above it."""
    weight = jnp.asarray([[1.0], [1.0], [1.0]])
    bias = jnp.asarray([-2.0, -2.0, -1.0]) if not threshold else jnp.zeros(3)
    limit = jnp.asarray([2.0, 2.0, 1.0]) if threshold else None
    found = union(weight, bias, limit, jnp.full((1, 1, 1), 2.0), jnp.ones(1, bool), 4)
    assert int(found.count) == 1
    np.testing.assert_array_equal(found.feature, [2, 0, 0, 0])
    np.testing.assert_array_equal(found.activation, [[2.0 if threshold else 1.0, 0, 0, 0]])


def test_overflow_is_counted():
    """The caller sees how long the list must be; one that long is complete."""
    encoder, runs = whole_numbers(3, 70, 4, threshold=False), whole_runs(3, 2, 5, 4)
    real = jnp.ones(5, bool)
    short = union(*encoder, runs, real, 7, block=16)
    count = int(short.count)
    assert count > 7
    assert_equal(
        union(*encoder, runs, real, count, block=16),
        dense_union(encoder, runs, real, count),
    )


def test_positions_that_are_not_real_hold_nothing():
    encoder, runs = whole_numbers(4, 40, 3, threshold=False), whole_runs(4, 2, 6, 3)
    real = jnp.asarray([False, True, True, False, False, False])
    full = union(*encoder, runs, real, 90, block=16)
    assert set(np.asarray(full.position[: int(full.count)]).tolist()) == {1, 2}
    # Whatever stands there, even infinity.
    other = jnp.where(real[:, None], runs, jnp.inf)
    assert_equal(active_union(*encoder, other, real, 90, block=16), full)
    assert int(union(*encoder, runs, jnp.zeros(6, bool), 90, block=16).count) == 0


def test_one_run_alone():
    encoder, runs = whole_numbers(5, 40, 3, threshold=True), whole_runs(5, 1, 6, 3)
    real = jnp.ones(6, bool)
    assert_equal(union(*encoder, runs, real, 240, block=7), dense_union(encoder, runs, real, 240))


@pytest.mark.parametrize("block", [16, 50])
def test_vmap_over_prompts(block: int):
    """Prompts of different lengths and counts, weights not batched."""
    encoder = whole_numbers(6, 50, 3, threshold=True)
    runs = jnp.stack([whole_runs(seed, 2, 6, 3) for seed in range(4)])
    real = jnp.arange(6) < jnp.asarray([6, 1, 3, 0])[:, None]
    one = jax.vmap(lambda x, r: active_union(*encoder, x, r, 300, block))
    batched = jax.jit(one)(runs, real)
    for b in range(4):
        alone = dense_union(encoder, runs[b], real[b], 300)
        assert_equal(ActiveUnion(*(array[b] for array in batched)), alone)


def test_no_dense_array_is_made():
    """Neither [R, T, F] nor [T, F], nor a copy of the weight; the dense form makes them."""
    features, width, length, capacity = 4096, 8, 6, 32
    encoder = whole_numbers(7, features, width, threshold=True)
    runs, real = whole_runs(7, 2, length, width), jnp.ones(length, bool)
    ours = partial(active_union, capacity=capacity, block=128)
    largest = max(map(np.prod, array_shapes(ours, *encoder, runs, real)))
    assert largest <= 2 * length * 128
    dense = array_shapes(lambda x: Encoder(*encoder)(x), runs[0])
    assert max(map(np.prod, dense)) >= features * length


def test_a_batch_is_one_product_a_block():
    """With vmap outside, a block's product has no batch dimension and all rows on one side."""
    encoder = whole_numbers(8, 256, 8, threshold=False)
    runs, real = whole_runs(8, 6, 5, 8).reshape(3, 2, 5, 8), jnp.ones((3, 5), bool)
    batched = jax.vmap(lambda x, r: active_union(*encoder, x, r, 16, 64))
    text = str(jax.make_jaxpr(batched)(runs, real))
    assert text.count("dot_general[") == 1
    assert "dimension_numbers=(([3], [1]), ([], []))" in text


@pytest.mark.parametrize(("capacity", "block"), [(0, 4), (4, 0), (-1, 4)])
def test_sizes_below_one_are_refused(capacity: int, block: int):
    encoder, runs = whole_numbers(9, 10, 3, threshold=False), whole_runs(9, 1, 2, 3)
    with pytest.raises(ValueError, match="must be at least 1"):
        active_union(*encoder, runs, jnp.ones(2, bool), capacity, block)


@pytest.mark.parametrize("columns", [1, 32, 70])
def test_the_nth_set_bit(columns: int):
    @jax.jit
    def all_bits(mask: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        bits = set_bits(mask)
        return bits.total, *bits.nth(jnp.arange(3 * columns))

    for share in (0.0, 0.01, 0.3, 0.9, 1.0):
        mask = np.random.default_rng(0).random((3, columns)) < share
        expected = np.argwhere(mask)
        count, row, column = all_bits(jnp.asarray(mask))
        assert int(count) == len(expected)
        np.testing.assert_array_equal(row[: len(expected)], expected[:, 0])
        np.testing.assert_array_equal(column[: len(expected)], expected[:, 1])
