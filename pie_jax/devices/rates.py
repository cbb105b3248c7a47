"""Rates of the present machine: a plain product, a plain copy, reading a few decoder rows."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np

_REPEATS = 3
# Bytes of rows that are read, at most.
_READ = 64 << 20


def matmul_flops(dtype: str) -> float:
    """Return FLOP/s of a square product with float32 sums; float32 at full precision."""
    size = 8192 if jax.default_backend() != "cpu" else 1024
    x = jnp.ones((size, size), dtype)
    precision = jax.lax.Precision.HIGHEST if dtype == "float32" else None
    product = jax.jit(
        lambda a: jnp.matmul(a, a, precision=precision, preferred_element_type=jnp.float32)
    )
    return 2 * size**3 / _seconds(lambda: product(x))


def copy_bytes() -> float:
    """Return bytes/s, read and written, of adding one to a large array."""
    x = jnp.ones(1 << (24 if jax.default_backend() == "cpu" else 28), jnp.float32)
    add = jax.jit(lambda x: x + 1)
    return 2 * x.nbytes / _seconds(lambda: add(x))


def read_bytes(maps: Sequence[np.ndarray], *, cached: bool, seed: int = 0) -> float:
    """Return bytes/s of reading rows of randomly drawn features from decoder maps [F, W, D].

    Unless `cached`, the system is asked to drop them from its cache before, where it can be.
    """
    random = np.random.default_rng(seed)
    total, spent = 0, 0.0
    for decoder in maps:
        count = max(1, min(len(decoder) // 8, _READ // len(maps) // decoder[0].nbytes))
        chosen = np.sort(random.choice(len(decoder), count, replace=False))
        if cached:
            np.asarray(decoder[chosen])
        elif isinstance(decoder, np.memmap):
            _drop(decoder)
        start = time.perf_counter()
        total += np.asarray(decoder[chosen]).nbytes
        spent += time.perf_counter() - start
    return total / spent


def _drop(decoder: np.memmap) -> None:
    """Ask for a mapped file to leave the cache; it stays where that is not known."""
    if not hasattr(os, "posix_fadvise") or decoder.filename is None:
        return
    file = os.open(decoder.filename, os.O_RDONLY)
    try:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(file)


def _seconds(run: Callable[[], object]) -> float:
    """Return the median wall-clock time of a call, after one that compiles."""
    jax.block_until_ready(run())
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - start)
    return median(times)
