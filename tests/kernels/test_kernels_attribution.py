"""`gradient_times_write` equals a loop over occurrences and layers."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from prune_helpers import random_writes, slow_product, to_bfloat16

from pie_jax.kernels import gradient_times_write, write

LAYERS, LENGTH, WIDTH, COUNT = 4, 6, 5, 23
SIZES = {"layers": LAYERS, "length": LENGTH, "d_model": WIDTH}
# Sums of at most twenty products of float32 numbers around one.
TOLERANCE = 1e-5


def gradient() -> np.ndarray:
    shape = (LAYERS, LENGTH, WIDTH)
    return np.random.default_rng(2).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("cross_layer", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_loop(seed: int, cross_layer: bool):
    table, at = random_writes(seed, COUNT, cross_layer=cross_layer, **SIZES)
    ours = gradient_times_write(jnp.asarray(table), at, jnp.asarray(gradient()))
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, slow_product(table, at, gradient()), atol=TOLERANCE)


def test_own_layer_reads_one_gradient_only():
    table, at = random_writes(3, COUNT, cross_layer=False, **SIZES)
    changed = gradient()
    for n in range(COUNT):
        changed[int(at.first[n]), int(at.position[n])] = 0
    assert not gradient_times_write(jnp.asarray(table), at, jnp.asarray(changed)).any()


def test_is_the_derivative_of_write():
    """<gradient, write(weight)> = sum of weight x product: the two kernels agree."""
    table, at = random_writes(4, COUNT, **SIZES)
    weight = jnp.asarray(np.random.default_rng(5).standard_normal(COUNT), jnp.float32)
    written = np.asarray(write(jnp.asarray(table), at, weight, LAYERS, LENGTH), np.float64)
    product = gradient_times_write(jnp.asarray(table), at, jnp.asarray(gradient()))
    whole = float((written * gradient()).sum())
    assert float(weight @ product) == pytest.approx(whole, abs=10 * TOLERANCE)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bfloat16_is_summed_in_float32(dtype: str):
    """Rows in bfloat16, the gradient in either, against float64 of the rounded numbers."""
    table, at = random_writes(6, COUNT, **SIZES)
    rows, coefficients = to_bfloat16(table), gradient().astype(jnp.dtype(dtype))
    ours = gradient_times_write(jnp.asarray(rows), at, jnp.asarray(coefficients))
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, slow_product(rows, at, coefficients), atol=TOLERANCE)


def test_rows_that_nobody_owns_may_hold_anything():
    table, at = random_writes(7, COUNT, **SIZES)
    table[0], table[-1] = np.nan, np.inf
    ours = gradient_times_write(jnp.asarray(table), at, jnp.asarray(gradient()))
    np.testing.assert_allclose(ours, slow_product(table, at, gradient()), atol=TOLERANCE)
