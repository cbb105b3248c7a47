"""Rows come back bit for bit, and a loop over blocks of bfloat16 makes no float32 copy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pie_jax.kernels.slices import slice_rows, take_rows

KINDS = pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32"])


def numbers(dtype: str) -> jax.Array:
    values = np.random.default_rng(0).standard_normal((20, 3, 4)) * 100
    return jnp.asarray(values, jnp.dtype(dtype))


@KINDS
def test_slices(dtype: str):
    array = numbers(dtype)
    ours = jax.jit(slice_rows, static_argnums=2)(array, jnp.int32(7), 5)
    assert ours.dtype == array.dtype
    np.testing.assert_array_equal(ours, array[7:12])


@KINDS
def test_takes(dtype: str):
    array, index = numbers(dtype), jnp.asarray([[3, 19], [0, 3]])
    ours = take_rows(array, index)
    assert ours.dtype == array.dtype
    np.testing.assert_array_equal(ours, np.asarray(array)[np.asarray(index)])


def test_infinity_and_not_a_number_stay():
    array = jnp.asarray([jnp.inf, -jnp.inf, jnp.nan, -0.0, 1e-40], jnp.bfloat16)
    ours = take_rows(array, jnp.arange(5))
    bits = (np.asarray(x).view(np.uint16) for x in (ours, array))
    np.testing.assert_array_equal(*bits)


def test_vmap_over_the_index():
    array, start = numbers("bfloat16"), jnp.asarray([0, 4, 15])
    ours = jax.vmap(lambda at: slice_rows(array, at, 5))(start)
    for part, at in zip(ours, (0, 4, 15), strict=True):
        np.testing.assert_array_equal(part, array[at : at + 5])


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="about XLA for CPUs")
@pytest.mark.parametrize("take", [True, False])
def test_no_copy_of_the_whole(take: bool):
    def total(array: jax.Array) -> jax.Array:
        def add(sum_: jax.Array, start: jax.Array) -> tuple[jax.Array, None]:
            at = start + jnp.arange(8)
            rows = take_rows(array, at) if take else slice_rows(array, start, 8)
            return sum_ + rows.astype(jnp.float32).sum(0), None

        return jax.lax.scan(add, jnp.zeros(512), jnp.arange(0, 4096, 8))[0]

    array = jax.ShapeDtypeStruct((4096, 512), jnp.bfloat16)
    memory = jax.jit(total).lower(array).compile().memory_analysis()
    assert memory.temp_size_in_bytes < array.size / 8
