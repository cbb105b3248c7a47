"""The Pallas kernels equal the plain form when interpreted, and lower for their platforms."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas.tpu import InterpretParams

from benchmarks.peers.streamed import pallas_tpu as tpu
from benchmarks.peers.streamed.pallas import pallas_gathered, pallas_streamed
from benchmarks.peers.streamed.scan import by_feature, streamed_gradient_times_write

# Relative; sums of some hundred to some thousand float32 products in another order.
TOLERANCE = 1e-5
BOTH = pytest.mark.parametrize("kernel", [pallas_gathered, pallas_streamed])
PLATFORMS = pytest.mark.parametrize("platform", ["tpu", "gpu"])
# Features, target layers, D, prompts, positions, occurrences.
SHAPES = [
    (40, 3, 128, 2, 5, 33),
    (17, 1, 24, 1, 3, 8),
    (64, 2, 600, 3, 4, 100),
    (5, 4, 40, 2, 2, 1),
]


def arrays(shape: tuple[int, ...], dtype: str) -> tuple[jax.Array, ...]:
    features, width, model, batch, length, count = shape
    rng = np.random.default_rng(0)
    return (
        jnp.asarray(rng.standard_normal((features, width, model)), jnp.dtype(dtype)),
        *(jnp.asarray(rng.integers(0, n, count), jnp.int32) for n in (features, batch, length)),
        jnp.asarray(rng.random(count) < 0.8),
        jnp.asarray(rng.standard_normal((batch, width, length, model)), jnp.float32),
    )


def product(
    kernel: Callable[..., jax.Array],
    decoder: jax.Array,
    feature: jax.Array,
    prompt: jax.Array,
    position: jax.Array,
    valid: jax.Array,
    gradient: jax.Array,
) -> jax.Array:
    at = by_feature(feature, prompt, position, valid, decoder.shape[0])
    return kernel(decoder, at, gradient)


def assert_equals_plain(kernel: Callable[..., jax.Array], inputs: tuple[jax.Array, ...]) -> None:
    ours = jax.jit(partial(product, kernel))(*inputs)
    theirs = jax.jit(partial(product, streamed_gradient_times_write))(*inputs)
    assert ours.dtype == jnp.float32
    scale = max(1.0, float(jnp.abs(theirs).max()))
    np.testing.assert_allclose(ours, theirs, atol=TOLERANCE * scale)


@BOTH
@PLATFORMS
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_interpreted_equals_plain(
    kernel: Callable[..., jax.Array], platform: str, dtype: str, shape: tuple[int, ...]
):
    assert_equals_plain(partial(kernel, platform=platform, interpret=True), arrays(shape, dtype))


@pytest.mark.parametrize("block", [16, 32])
def test_blocks_that_do_not_divide(block: int):
    kernel = partial(pallas_streamed, platform="tpu", interpret=True, block=block)
    assert_equals_plain(kernel, arrays(SHAPES[0], "float32"))


def test_more_occurrences_than_scalar_memory_holds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tpu, "_MOST", 16)
    kernel = partial(pallas_gathered, platform="tpu", interpret=True)
    assert_equals_plain(kernel, arrays(SHAPES[2], "float32"))


@BOTH
def test_simulated_memories_of_a_tpu(kernel: Callable[..., jax.Array]):
    """A stricter interpreter: memory that was not written holds no number."""
    simulated = partial(kernel, platform="tpu", interpret=InterpretParams())
    assert_equals_plain(simulated, arrays(SHAPES[1], "float32"))


@pytest.mark.parametrize(
    ("size", "most", "expected"),
    [(4096, 2048, 2048), (2304, 2048, 1152), (2304, 100, 128), (600, 2048, 600), (64, 2048, 64)],
)
def test_parts_of_a_row_divide_it(size: int, most: int, expected: int):
    assert tpu._divisor(size, most) == expected


@BOTH
@PLATFORMS
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_lowers_without_a_device(kernel: Callable[..., jax.Array], platform: str, dtype: str):
    """Sizes of a real layer: 26 target layers of width 2304, 16384 features, 8 prompts."""
    shape = (16384, 26, 2304, 8, 18, 5000)
    kinds = (dtype, "int32", "int32", "int32", "bool", "float32")
    sizes = (shape[:3], shape[5:], shape[5:], shape[5:], shape[5:], (8, 26, 18, 2304))
    inputs = [
        jax.ShapeDtypeStruct(size, jnp.dtype(kind)) for size, kind in zip(sizes, kinds, strict=True)
    ]
    traced = jax.jit(partial(product, partial(kernel, platform=platform))).trace(*inputs)
    name = {"tpu": "tpu", "gpu": "cuda"}[platform]
    call = {"tpu": "tpu_custom_call", "gpu": "triton"}[platform]
    assert call in traced.lower(lowering_platforms=(name,)).as_text()
