"""The transformer itself: batches, interventions, gradient rules, gradients, sizes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from slow_transformer import SlowTransformer

from pie_jax.models.abstract import abstract_transformer, parameter_count
from pie_jax.models.config import PRESETS, ModelConfig
from pie_jax.models.gradient_rules import FULL, GRADIENT_RULES
from pie_jax.models.loader import load_transformer, read_config
from pie_jax.models.transformer import (
    Transformer,
)
from pie_jax.models.turns import rotate

# float32 against float64 or in another order of sums; logits reach about ten.
TOLERANCE = 1e-4
# The same sums in another program, which the compiler may fuse otherwise.
ROUNDING = 2e-5
CASES = ["llama-gqa-untied-llama3", "gemma2-gqa-tied", "gemma2-mqa-tied"]


@dataclass(frozen=True)
class Loaded:
    model: Transformer
    slow: SlowTransformer
    tokens: jax.Array  # [P, T]

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    def delta(self, seed: int, length: int) -> np.ndarray:
        """Return a random intervention [L, T, D]."""
        shape = (self.config.num_layers, length, self.config.d_model)
        return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module", params=CASES)
def loaded(request: pytest.FixtureRequest, golden: Path) -> Loaded:
    folder = golden / "models" / request.param
    model = load_transformer(folder, read_config(folder / "config.json"), jnp.dtype("float32"))
    tokens = np.load(golden / "logits.npz")[f"{request.param}/tokens"]
    return Loaded(model, SlowTransformer(folder), jnp.asarray(tokens, jnp.int32))


@jax.jit
def forward(model: Transformer, tokens: jax.Array, delta: jax.Array | None = None):
    return model(tokens, delta)


def gap(ours: jax.Array, theirs: np.ndarray | jax.Array) -> float:
    assert ours.shape == theirs.shape
    return float(np.abs(np.asarray(ours) - np.asarray(theirs)).max())


def test_equals_the_slow_version(loaded: Loaded):
    tokens = loaded.tokens[0]
    ours, theirs = forward(loaded.model, tokens), loaded.slow(tokens.tolist())
    for name in theirs._fields:
        assert gap(getattr(ours, name), getattr(theirs, name)) <= TOLERANCE, name


def test_mlp_delta_is_added_to_the_mlp_outputs(loaded: Loaded):
    tokens = loaded.tokens[0, :9]
    delta = loaded.delta(0, len(tokens))
    ours = forward(loaded.model, tokens, jnp.asarray(delta))
    theirs = loaded.slow(tokens.tolist(), delta.astype(np.float64))
    for name in theirs._fields:
        assert gap(getattr(ours, name), getattr(theirs, name)) <= TOLERANCE, name
    # It matters, and `mlp_out` of the first layer does not hold it.
    plain = forward(loaded.model, tokens)
    assert gap(ours.logits, plain.logits) > 0.1
    assert gap(ours.mlp_out[0], plain.mlp_out[0]) <= 1e-6


def test_zero_delta_changes_nothing(loaded: Loaded):
    tokens = loaded.tokens[0]
    zero = jnp.zeros_like(loaded.delta(0, len(tokens)))
    ours, plain = forward(loaded.model, tokens, zero), forward(loaded.model, tokens)
    for name in plain._fields:
        assert gap(getattr(ours, name), getattr(plain, name)) <= ROUNDING, name


def test_padded_batch_equals_its_prompts(loaded: Loaded):
    lengths = (24, 11, 1)
    prompts = [loaded.tokens[i % 2, :length] for i, length in enumerate(lengths)]
    deltas = [0.3 * loaded.delta(i, length) for i, length in enumerate(lengths)]
    padded = jnp.stack([jnp.pad(prompt, (0, 24 - len(prompt))) for prompt in prompts])
    padded_deltas = np.stack([np.pad(d, ((0, 0), (0, 24 - d.shape[1]), (0, 0))) for d in deltas])
    batch = jax.jit(jax.vmap(loaded.model))(padded, jnp.asarray(padded_deltas))
    for i, (prompt, delta) in enumerate(zip(prompts, deltas, strict=True)):
        one = forward(loaded.model, prompt, jnp.asarray(delta))
        length = len(prompt)
        assert gap(batch.logits[i, :length], one.logits) <= TOLERANCE
        assert gap(batch.resid_mid[i, :, :length], one.resid_mid) <= TOLERANCE
        assert gap(batch.mlp_out[i, :, :length], one.mlp_out) <= TOLERANCE


def test_a_position_sees_nothing_after_it(loaded: Loaded):
    tokens = loaded.tokens[0]
    changed = tokens.at[12].set((tokens[12] + 1) % loaded.config.vocab_size)
    one, other = forward(loaded.model, tokens), forward(loaded.model, changed)
    np.testing.assert_array_equal(one.logits[:12], other.logits[:12])
    assert gap(one.logits[12:], other.logits[12:]) > 0.1


@pytest.mark.parametrize("rule", GRADIENT_RULES)
def test_gradient_rules_leave_the_forward_pass_alone(loaded: Loaded, rule: str):
    tokens = loaded.tokens[0]
    ours = jax.jit(lambda model, t: model(t, None, GRADIENT_RULES[rule]))(loaded.model, tokens)
    plain = forward(loaded.model, tokens)
    for name in plain._fields:
        assert gap(getattr(ours, name), getattr(plain, name)) <= ROUNDING, name


def test_full_gradient_equals_finite_differences(loaded: Loaded):
    """Directional derivatives of the slow float64 version, by central differences."""
    tokens = loaded.tokens[0, :8]
    weights = np.random.default_rng(1).standard_normal(loaded.config.vocab_size)

    def value(delta: jax.Array) -> jax.Array:
        logits = loaded.model(tokens, delta, FULL).logits
        return jax.nn.logsumexp(logits, axis=-1).sum() + logits[-1] @ weights

    def slow_value(delta: np.ndarray) -> float:
        logits = loaded.slow(tokens.tolist(), delta).logits
        return float(np.log(np.exp(logits).sum(-1)).sum() + logits[-1] @ weights)

    start = 0.3 * loaded.delta(2, len(tokens))
    gradient = np.asarray(jax.jit(jax.grad(value))(jnp.asarray(start)), np.float64)
    step = 1e-4
    for seed in range(3, 8):
        direction = loaded.delta(seed, len(tokens)).astype(np.float64)
        direction /= np.linalg.norm(direction)
        ahead = slow_value(start + step * direction)
        behind = slow_value(start - step * direction)
        slope = (ahead - behind) / (2 * step)
        # float32 gradients over up to four layers.
        assert abs(slope - (gradient * direction).sum()) <= 1e-4 * np.linalg.norm(gradient)


def test_frozen_rule_is_linear_in_the_last_layer(loaded: Loaded):
    """With everything frozen only the unembedding is left behind the last layer."""
    tokens, config = loaded.tokens[0, :8], loaded.config
    residual = jax.jit(lambda t: loaded.model.streams(t).residual)(tokens)
    rule = GRADIENT_RULES["frozen"]

    def logit(delta: jax.Array) -> jax.Array:
        return loaded.model(tokens, delta, rule).logits[-1, 5]

    zero = jnp.zeros((config.num_layers, len(tokens), config.d_model))
    gradient = jax.jit(jax.grad(logit))(zero)
    direct = jax.jit(jax.grad(lambda x: loaded.model.unembed(x, rule)[-1, 5]))(residual)
    assert gap(gradient[-1], direct) <= 1e-6
    # The last position's logits; nothing else in the last layer moves them.
    assert not np.asarray(gradient[-1, :-1]).any()


def test_lrp_rules():
    rule = GRADIENT_RULES["relp"]
    x = jnp.asarray([-2.0, -1e-3, 0.5, 3.0])
    slope = jax.vmap(jax.grad(lambda v: rule.activation(jax.nn.silu, v)))(x)
    np.testing.assert_allclose(slope, jax.nn.silu(x) / x, rtol=2e-3)  # the stabiliser's share
    np.testing.assert_array_equal(rule.activation(jax.nn.silu, x), jax.nn.silu(x))
    at_zero = jax.grad(lambda v: rule.activation(jax.nn.silu, v))(0.0)
    assert np.isfinite(at_zero)
    np.testing.assert_array_equal(jax.grad(lambda v: rule.product(v * v).sum())(x), x)
    np.testing.assert_array_equal(rule.product(x), x)


def test_mlp_inputs_are_the_normalised_streams(loaded: Loaded):
    out = forward(loaded.model, loaded.tokens[0])
    inputs = loaded.model.transcoder_inputs(out.resid_mid, "mlp_in")
    name = "pre_feedforward" if loaded.config.post_norms else "post_attention"
    for layer in range(loaded.config.num_layers):
        for t in (0, 7):
            theirs = loaded.slow.norm(
                np.asarray(out.resid_mid[layer, t], np.float64),
                f"model.layers.{layer}.{name}_layernorm.weight",
            )
            np.testing.assert_allclose(inputs[layer, t], theirs, atol=1e-5)
    plain = np.asarray(loaded.model.transcoder_inputs(out.resid_mid, "ln2_normalized"), np.float64)
    x = np.asarray(out.resid_mid, np.float64)
    size = np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + loaded.config.norm_eps)
    np.testing.assert_allclose(plain, x / size, atol=1e-5)


def test_rotation_keeps_lengths_and_depends_on_distance_only():
    x = jax.random.normal(jax.random.key(0), (1, 1, 8))
    y = jax.random.normal(jax.random.key(1), (1, 1, 8))
    frequencies = jnp.asarray([1.0, 0.3, 0.1, 0.01])

    def turns(position: float) -> jax.Array:
        angles = position * frequencies
        return jnp.stack([jnp.cos(angles), jnp.sin(angles)])[None]

    def score(t: float, s: float) -> jax.Array:
        return (rotate(x, turns(t)) * rotate(y, turns(s))).sum()

    np.testing.assert_allclose(score(9, 4), score(25, 20), rtol=1e-4)
    assert abs(score(9, 4) - score(9, 5)) > 1e-2
    np.testing.assert_allclose(jnp.linalg.norm(rotate(x, turns(1))), jnp.linalg.norm(x))


def test_embedding_scale_is_rounded_to_the_weights_dtype(golden: Path):
    folder = golden / "models" / "gemma2-gqa-tied"
    config = read_config(folder / "config.json")
    # sqrt(32) = 5.65685, which bfloat16 rounds to 5.65625.
    for dtype, scale in (("float32", np.float32(np.sqrt(32))), ("bfloat16", 5.65625)):
        model = load_transformer(folder, config, jnp.dtype(dtype))
        table = np.asarray(model.embedding[...], np.float32)
        np.testing.assert_array_equal(model.embed(jnp.arange(97)), table * np.float32(scale))


@pytest.mark.parametrize(
    ("preset", "count"),
    [
        ("llama-3.2-1b", 1_235_814_400),
        ("llama-3.2-3b", 3_212_749_824),
        ("gemma-2-2b", 2_614_341_888),
        ("gemma-2-9b", 9_241_705_984),
        ("gemma-3-270m", 268_098_176),
        ("gemma-3-1b", 999_885_952),
        # The published sizes hold 416,866,032 for images and the projection between the two.
        ("gemma-3-4b", 4_300_079_472 - 416_866_032 - 2560 * 1152 - 1152),
        ("gemma-3-12b", 12_187_325_040 - 416_866_032 - 3840 * 1152 - 1152),
        ("gemma-3-27b", 27_432_406_640 - 416_866_032 - 5376 * 1152 - 1152),
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
        ("mistral-7b", 7_241_732_096),
        ("qwen2.5-0.5b", 494_032_768),
        ("qwen2.5-1.5b", 1_543_714_304),
        ("qwen2.5-3b", 3_085_938_688),
        ("qwen3-0.6b", 596_049_920),
        ("qwen3-1.7b", 1_720_574_976),
        ("qwen3-4b", 4_022_468_096),
        ("qwen3-8b", 8_190_735_360),
        ("qwen3-14b", 14_768_307_200),
    ],
)
def test_parameter_counts(preset: str, count: int):
    assert parameter_count(PRESETS[preset]) == count


@pytest.mark.parametrize("preset", PRESETS)
def test_full_size_models_trace_without_memory(preset: str):
    model = abstract_transformer(PRESETS[preset], jnp.bfloat16)
    tokens = jax.ShapeDtypeStruct((2, 128), jnp.int32)
    out = jax.eval_shape(lambda m, t: jax.vmap(m)(t), model, tokens)
    config = PRESETS[preset]
    assert out.logits.shape == (2, 128, config.vocab_size)
    assert out.resid_mid.shape == (2, config.num_layers, 128, config.d_model)
    assert {leaf.dtype for leaf in jax.tree.leaves(out)} == {jnp.dtype("float32")}


def test_one_compilation_serves_models_of_one_config(golden: Path):
    """Two loads of a checkpoint share a program: the config is static and compares equal."""
    folder = golden / "models" / CASES[0]
    traced = 0

    @jax.jit
    def run(model: Transformer, tokens: jax.Array) -> jax.Array:
        nonlocal traced
        traced += 1
        return model(tokens).logits

    config = read_config(folder / "config.json")
    for _ in range(2):
        run(load_transformer(folder, config, jnp.dtype("float32")), jnp.arange(6))
    assert traced == 1
