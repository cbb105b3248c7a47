"""Rates of a plain matmul and a plain copy on this machine: the limits of every other figure."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import jax
import jax.numpy as jnp

_REPEATS = 7


def seconds(run: Callable[[], object], repeats: int = _REPEATS) -> list[float]:
    """Return the wall-clock times of a call, after one that compiles."""
    jax.block_until_ready(run())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - start)
    return times


def matmul_flops(dtype: str = "float32") -> float:
    """Return FLOP/s of a square product in float32 sums; float32 at full precision."""
    size = 8192 if jax.default_backend() != "cpu" else 2048
    # Random numbers: GPUs multiply ones and zeros faster.
    x = jax.random.normal(jax.random.key(0), (size, size), dtype)
    precision = jax.lax.Precision.HIGHEST if dtype == "float32" else None
    product = jax.jit(
        lambda a, b: jnp.matmul(a, b, precision=precision, preferred_element_type=jnp.float32)
    )
    return 2 * size**3 / median(seconds(lambda: product(x, x)))


def copy_bytes() -> float:
    """Return bytes/s, read and written, of adding one to a large array."""
    x = jnp.ones(1 << (26 if jax.default_backend() == "cpu" else 29), jnp.float32)
    add = jax.jit(lambda x: x + 1)
    return 2 * x.nbytes / median(seconds(lambda: add(x)))
