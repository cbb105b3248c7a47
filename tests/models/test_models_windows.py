"""Runs of a window beside a recorded run: equal to whole runs, their gradients too."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from prune_helpers import ARITHMETIC, tiny_model

from pie_jax.models.cached_prefix import (
    places,
    record,
    run_changed,
    run_window,
    window,
    window_layer,
)
from pie_jax.models.gradient_rules import GRADIENT_RULES
from pie_jax.models.transformer import Transformer

LENGTH = 12
# The same sums in another order, float32; streams reach fifty.
TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=ARITHMETIC)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Transformer:
    return tiny_model(tmp_path_factory.mktemp("model"), **ARITHMETIC[request.param]).transformer


def tokens(model: Transformer, seed: int = 0) -> jax.Array:
    high = model.config.vocab_size
    return jnp.asarray(np.random.default_rng(seed).integers(1, high, LENGTH), jnp.int32)


def change(model: Transformer, start: int, size: int) -> np.ndarray:
    """Return a random `mlp_delta` of the whole prompt that is 0 outside a window."""
    config = model.config
    out = np.zeros((config.num_layers, LENGTH, config.d_model), np.float32)
    random = np.random.default_rng(1)
    out[:, start : start + size] = random.standard_normal((config.num_layers, size, config.d_model))
    return out


def test_a_record_is_the_run(model: Transformer):
    recorded, streams = record(model, tokens(model)), model.streams(tokens(model))
    np.testing.assert_allclose(recorded.residual, streams.residual, atol=TOLERANCE)
    np.testing.assert_allclose(recorded.resid_mid, streams.resid_mid, atol=TOLERANCE)
    np.testing.assert_array_equal(recorded.entering[0], model.embed(tokens(model)))


@pytest.mark.parametrize(("start", "size"), [(0, LENGTH), (3, 9), (8, 4), (4, 5), (11, 1)])
def test_a_changed_window_is_the_changed_run(model: Transformer, start: int, size: int):
    """What changes inside the window; every position of it, and nothing before it moves."""
    delta = change(model, start, size)
    whole = model.streams(tokens(model), jnp.asarray(delta))
    recorded = record(model, tokens(model))
    of = window(recorded, jnp.int32(start), size)
    inside = slice(start, start + size)
    residual, resid_mid = run_window(model, of, of.entering[0], jnp.asarray(delta[:, inside]))
    np.testing.assert_allclose(residual, whole.residual[inside], atol=TOLERANCE)
    np.testing.assert_allclose(resid_mid, whole.resid_mid[:, inside], atol=TOLERANCE)
    np.testing.assert_allclose(recorded.residual[:start], whole.residual[:start], atol=TOLERANCE)
    assert np.abs(residual - of.residual).max() > 0.1


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_changed_run_from_the_second_layer_on(model: Transformer, layers: int):
    """Equal to the window run from the first layer on, whole and at the last position alone."""
    sliding = model.config.sliding_layers
    config = replace(
        model.config,
        num_layers=layers,
        sliding_layers=sliding and (*sliding, *sliding)[:layers],
    )
    short = Transformer(config, nnx.Rngs(1))
    start, size = 4, 6
    delta = jnp.asarray(change(short, start, size)[:, start : start + size])
    of = window(record(short, tokens(short)), jnp.int32(start), size)
    expected, _ = run_window(short, of, of.entering[0], delta)
    assert np.abs(expected - of.residual).max() > 0.1
    np.testing.assert_allclose(run_changed(short, of, delta), expected, atol=TOLERANCE)
    last = run_changed(short, of, delta, last=jnp.int32(3))
    np.testing.assert_allclose(last, expected[3:4], atol=TOLERANCE)


def test_other_tokens_from_a_position_on(model: Transformer):
    """A corrupted prompt that agrees with the clean one up to the window."""
    clean = tokens(model)
    other = jnp.where(jnp.arange(LENGTH) >= 7, tokens(model, 5), clean)
    of = window(record(model, clean), jnp.int32(7), 5)
    residual, _ = run_window(model, of, model.embed(other[7:], 7))
    np.testing.assert_allclose(residual, model.streams(other).residual[7:], atol=TOLERANCE)


@pytest.mark.parametrize("rule", ["full", "frozen", "relp"])
def test_gradients_of_a_window(model: Transformer, rule: str):
    """Of a random projection of the last position, at a changed run, under every rule."""
    start, size = 5, 7
    delta = jnp.asarray(change(model, start, size))
    direction = jnp.asarray(np.random.default_rng(2).standard_normal(model.config.d_model))
    of = window(record(model, tokens(model)), jnp.int32(start), size)

    def whole(delta: jax.Array) -> jax.Array:
        residual = model.streams(tokens(model), delta, GRADIENT_RULES[rule]).residual
        return residual[-1] @ direction

    def part(delta: jax.Array) -> jax.Array:
        return run_window(model, of, of.entering[0], delta, GRADIENT_RULES[rule])[0][-1] @ direction

    expected = jax.grad(whole)(delta)[:, start:]
    found = jax.grad(part)(delta[:, start:])
    scale = float(jnp.abs(expected).max())
    assert scale > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-5 * scale)


def test_the_last_position_of_a_layer_alone(model: Transformer):
    of = window(record(model, tokens(model)), jnp.int32(4), 8)
    block = jax.tree.map(lambda x: x[1], model.blocks)
    where = places(model, of, jnp.int32(2), 6)
    x, slides = of.entering[1][2:], jnp.bool_(bool((model.config.sliding_layers or (0, 0))[1]))
    whole, _ = window_layer(block, x, of.keys[1], of.values[1], where, slides)
    last, _ = window_layer(block, x, of.keys[1], of.values[1], where, slides, last=jnp.int32(4))
    np.testing.assert_allclose(last, whole[4:5], atol=TOLERANCE)


def test_few_logits_are_those_of_all(model: Transformer):
    residual = model.streams(tokens(model)).residual
    ids = jnp.array([3, 0, model.config.vocab_size - 1])
    np.testing.assert_allclose(
        model.unembed_ids(residual, ids), model.unembed(residual)[:, ids], atol=TOLERANCE
    )
