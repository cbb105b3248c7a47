"""Layers of bfloat16 weights are those of a plain scan, without a float32 copy of all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pie_jax.models import layers, transformer
from pie_jax.models.cached_prefix import record, run_window, window
from pie_jax.models.config import ModelConfig
from pie_jax.models.transformer import Transformer

CONFIG = ModelConfig(
    family="llama", vocab_size=64, num_layers=6, d_model=256, d_mlp=1024, num_heads=2,
    num_kv_heads=2, head_dim=128, norm_eps=1e-5, rope_theta=1e4, max_positions=32,
)  # fmt: skip
TOKENS = jnp.asarray([1, 5, 9, 2, 7, 7, 30, 4])


def model(dtype: str) -> Transformer:
    return Transformer(CONFIG, nnx.Rngs(0), jnp.dtype(dtype))


def change() -> jax.Array:
    shape = (CONFIG.num_layers, len(TOKENS), CONFIG.d_model)
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32))


def value(model: Transformer, delta: jax.Array) -> jax.Array:
    return model.unembed(model.streams(TOKENS, delta).residual)[-1, 3]


def product(model: Transformer, delta: jax.Array) -> jax.Array:
    """Return the Hessian's product with the change itself."""
    return jax.jvp(jax.grad(lambda d: value(model, d)), (delta,), (delta,))[1]


def windows(model: Transformer, delta: jax.Array) -> jax.Array:
    of = window(record(model, TOKENS), jnp.int32(3), 5)
    return run_window(model, of, of.entering[0], delta[:, 3:])[0]


# As everywhere but in these tests, so that both forms round alike.
OPTIMISED = {"xla_backend_optimization_level": 3}
PASSES = {"value": value, "gradient": jax.grad(value, 1), "product": product, "window": windows}


@pytest.mark.parametrize("name", PASSES)
def test_equal_a_plain_scan(name: str, monkeypatch: pytest.MonkeyPatch):
    run, weights, delta = PASSES[name], model("bfloat16"), change()
    ours = jax.jit(run, compiler_options=OPTIMISED)(weights, delta)

    def plain(layer: Callable[..., Any], x: Any, blocks: Any, *rest: Any) -> Any:
        return jax.lax.scan(layer, x, (blocks, *rest))

    for module in ("transformer", "cached_prefix"):
        monkeypatch.setattr(f"pie_jax.models.{module}.scan_layers", plain)
    theirs = jax.jit(lambda *arguments: run(*arguments), compiler_options=OPTIMISED)(weights, delta)
    assert np.abs(theirs).max() > 1e-4
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6 * np.abs(theirs).max())


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="about XLA for CPUs")
@pytest.mark.parametrize("name", PASSES)
def test_no_copy_of_all_layers(name: str):
    weights = model("bfloat16")
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(weights.blocks))
    compiled = jax.jit(PASSES[name]).lower(weights, change()).compile()
    # A float32 copy takes twice the size; what is left is one layer and the streams.
    assert compiled.memory_analysis().temp_size_in_bytes < 0.75 * size


def test_one_layer():
    blocks = model("bfloat16").blocks
    ours = jax.jit(layers.layer_of)(blocks, jnp.int32(4))
    for part, whole in zip(jax.tree.leaves(ours), jax.tree.leaves(blocks), strict=True):
        np.testing.assert_array_equal(part, whole[4])
    assert isinstance(ours, transformer.Block)
