"""GPT-2: what it computes, against float64 position by position; its files, its limits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from prune_helpers import ARITHMETIC, tiny_model, tiny_pairs, tiny_transcoder
from refusals import refuses
from safetensors.numpy import load_file, save_file

import pie_jax
from pie_jax.devices.mesh import make_mesh
from pie_jax.evaluate.steering import Steerer
from pie_jax.features.activations import FeatureReader
from pie_jax.features.promoted import direct_effects
from pie_jax.features.records import FeatureKey
from pie_jax.models.generate import generate
from pie_jax.models.gradient_rules import FULL, GRADIENT_RULES
from pie_jax.models.loader import LanguageModel, load_transformer, read_config
from pie_jax.models.transformer import Transformer
from pie_jax.prune.plan.memory import block_parameters

CASE = "models/gpt2-tied"
FLOAT32 = jnp.dtype("float32")
TOLERANCE = 1e-4


def load(folder: Path, dtype: str = "float32") -> Transformer:
    return load_transformer(folder, read_config(folder / "config.json"), jnp.dtype(dtype))


@pytest.fixture(scope="module")
def model(golden: Path) -> Transformer:
    return load(golden / CASE)


class Slow:
    """The forward pass from the file's own tensors, in float64."""

    def __init__(self, folder: Path, heads: int, eps: float):
        found = load_file(folder / "model.safetensors")
        self.tensors = {name: tensor.astype(np.float64) for name, tensor in found.items()}
        self.heads, self.eps = heads, eps

    def at(self, name: str) -> np.ndarray:
        return self.tensors["transformer." + name]

    def plain(self, x: np.ndarray) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + self.eps)

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        return self.plain(x) * self.at(name + ".weight") + self.at(name + ".bias")

    def linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self.at(name + ".weight") + self.at(name + ".bias")

    def attend(self, x: np.ndarray, layer: str) -> np.ndarray:
        fused = self.linear(x, layer + "attn.c_attn").reshape(len(x), 3, self.heads, -1)
        parts = []
        for head in range(self.heads):
            q, k, v = fused[:, :, head].swapaxes(0, 1)
            scores = q @ k.T / np.sqrt(q.shape[-1])
            scores[np.triu_indices(len(x), 1)] = -np.inf
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            parts.append(weights / weights.sum(-1, keepdims=True) @ v)
        return self.linear(np.concatenate(parts, -1), layer + "attn.c_proj")

    def __call__(self, tokens: np.ndarray, delta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return logits [T, V] and resid_mid [L, T, D]; `delta` is added to the MLP outputs."""
        x = self.at("wte.weight")[tokens] + self.at("wpe.weight")[: len(tokens)]
        resid_mid = []
        for layer, change in enumerate(delta):
            name = f"h.{layer}."
            x = x + self.attend(self.norm(x, name + "ln_1"), name)
            resid_mid.append(x)
            pre = self.linear(self.norm(x, name + "ln_2"), name + "mlp.c_fc")
            hidden = 0.5 * pre * (1 + np.tanh(np.sqrt(2 / np.pi) * (pre + 0.044715 * pre**3)))
            x = x + self.linear(hidden, name + "mlp.c_proj") + change
        return self.norm(x, "ln_f") @ self.at("wte.weight").T, np.stack(resid_mid)


@pytest.fixture(scope="module")
def slow(model: Transformer, golden: Path) -> Slow:
    return Slow(golden / CASE, model.config.num_heads, model.config.norm_eps)


def test_equals_the_slow_version_with_interventions(model: Transformer, slow: Slow):
    rng = np.random.default_rng(0)
    tokens, delta = rng.integers(0, 97, 9), 0.3 * rng.standard_normal((2, 9, 32))
    logits, resid_mid = slow(tokens, delta)
    ours = jax.jit(model)(jnp.asarray(tokens), jnp.asarray(delta, jnp.float32))
    np.testing.assert_allclose(ours.logits, logits, atol=TOLERANCE)
    np.testing.assert_allclose(ours.resid_mid, resid_mid, atol=TOLERANCE)


def test_inputs_of_transcoders(model: Transformer, slow: Slow):
    """`ln2.hook_normalized` is the stream centred and scaled; `mlp.hook_in` has weight and bias."""
    x = np.random.default_rng(1).standard_normal((2, 5, 32)).astype(np.float32)
    plain = model.transcoder_inputs(jnp.asarray(x), "ln2_normalized")
    np.testing.assert_allclose(plain, slow.plain(x.astype(np.float64)), atol=1e-5)
    read = model.transcoder_inputs(jnp.asarray(x), "mlp_in")
    expected = [slow.norm(row.astype(np.float64), f"h.{i}.ln_2") for i, row in enumerate(x)]
    np.testing.assert_allclose(read, expected, atol=1e-5)
    assert model.transcoder_inputs(jnp.asarray(x), "resid_mid").tolist() == x.tolist()


def test_full_gradient_equals_finite_differences(model: Transformer, slow: Slow):
    rng = np.random.default_rng(2)
    tokens, weights = rng.integers(0, 97, 8), rng.standard_normal(97)
    start = 0.3 * rng.standard_normal((2, 8, 32))

    def value(delta: jax.Array) -> jax.Array:
        return model(jnp.asarray(tokens), delta, FULL).logits[-1] @ weights

    gradient = np.asarray(jax.jit(jax.grad(value))(jnp.asarray(start, jnp.float32)), np.float64)
    for _ in range(4):
        way = rng.standard_normal(start.shape)
        way *= 1e-4 / np.linalg.norm(way)
        ahead, behind = (slow(tokens, start + sign * way)[0][-1] @ weights for sign in (1, -1))
        assert (ahead - behind) / 2 == pytest.approx((gradient * way).sum(), rel=1e-2, abs=1e-7)


def last_norm_gradient(model: Transformer, rule: str, x: np.ndarray, row: np.ndarray) -> Any:
    norm = model.final_norm
    return jax.grad(lambda x: norm(x, GRADIENT_RULES[rule]) @ row)(jnp.asarray(x, jnp.float32))


@pytest.mark.parametrize("rule", ["frozen", "relp"])
def test_a_frozen_norm_still_centres(model: Transformer, rule: str):
    rng = np.random.default_rng(3)
    x, row = rng.standard_normal(32), rng.standard_normal(32)
    back = row * np.asarray(model.final_norm.weight[...], np.float64)
    expected = (back - back.mean()) / np.sqrt(x.var() + model.config.norm_eps)
    np.testing.assert_allclose(last_norm_gradient(model, rule, x, row), expected, atol=1e-5)


def test_relp_without_a_gate_is_the_identity_rule_alone(model: Transformer):
    """The gradient of an activation is f(x) / x, and no product halves it."""
    mlp = jax.tree.map(lambda leaf: leaf[0], model.blocks).mlp
    rng = np.random.default_rng(4)
    x, row = rng.standard_normal(32), rng.standard_normal(32)

    def value(x: jax.Array) -> jax.Array:
        return mlp(x[None], GRADIENT_RULES["relp"])[0] @ row

    gradient = jax.grad(value)(jnp.asarray(x, jnp.float32))
    up, down = (np.asarray(w[...], np.float64) for w in (mlp.up, mlp.down))
    pre = x @ up + np.asarray(mlp.up_bias[...])
    slope = np.asarray(jax.nn.gelu(jnp.asarray(pre))) / pre
    np.testing.assert_allclose(gradient, up @ (slope * (down @ row)), rtol=1e-3, atol=1e-4)


def test_promoted_tokens_see_a_centred_norm(model: Transformer):
    direction = np.random.default_rng(5).standard_normal(32) + 3
    centred = (direction - direction.mean()) * np.asarray(model.final_norm.weight[...])
    effects = np.asarray(model.embedding[...]) @ centred
    best, gain, worst, loss = direct_effects(model, jnp.asarray(direction[None], FLOAT32), 4)
    assert best[0].tolist() == np.argsort(-effects)[:4].tolist()
    assert worst[0].tolist() == np.argsort(effects)[:4].tolist()
    np.testing.assert_allclose(gain[0], np.sort(effects)[::-1][:4], rtol=1e-4)
    np.testing.assert_allclose(loss[0], np.sort(effects)[:4], rtol=1e-4)


def test_generation_equals_runs_from_the_start(model: Transformer):
    tokens = jnp.asarray([[5, 9, 2, 7, 0, 0], [3, 1, 4, 1, 5, 9]])
    new = generate(model, tokens, jnp.asarray([4, 6]), new_tokens=5)
    for row, length, found in zip(tokens.tolist(), (4, 6), new.tolist(), strict=True):
        ids = row[:length]
        for token in found:
            assert token == int(model(jnp.asarray(ids)).logits[-1].argmax())
            ids.append(token)


def test_padding_may_lie_beyond_the_last_position(model: Transformer):
    tokens = jnp.arange(40) % 97
    whole = model(tokens).logits[:30]
    np.testing.assert_allclose(whole, model(tokens[:30]).logits, atol=TOLERANCE)
    assert np.isfinite(model(tokens).logits).all()


# Files


def test_files_with_or_without_prefix_and_masks(copied: Any, model: Transformer):
    folder = copied(CASE)
    tensors = load_file(folder / "model.safetensors")
    short = {name.removeprefix("transformer."): value for name, value in tensors.items()}
    for layer in range(2):
        short[f"h.{layer}.attn.bias"] = np.tril(np.ones((1, 1, 30, 30), np.float32))
        short[f"h.{layer}.attn.masked_bias"] = np.float32([-1e4])
    save_file(short, folder / "model.safetensors")
    again = load(folder)
    for one, other in zip(jax.tree.leaves(model), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_fused_tensor_of_another_width(copied: Any):
    folder = copied(CASE)
    tensors = load_file(folder / "model.safetensors")
    name = "transformer.h.1.attn.c_attn.weight"
    tensors[name] = np.ascontiguousarray(tensors[name][:, :90])
    save_file(tensors, folder / "model.safetensors")
    refuses(lambda: load(folder), folder / "model.safetensors", name)


def test_a_mesh_reads_parts_of_fused_tensors(golden: Path, model: Transformer):
    config = model.config
    placed = load_transformer(golden / CASE, config, FLOAT32, make_mesh("model=4,data=2"))
    query = placed.blocks.attention.query[...]
    assert query.addressable_shards[0].data.shape == (2, 32, 1, 8)
    for one, other in zip(jax.tree.leaves(model), jax.tree.leaves(placed), strict=True):
        np.testing.assert_array_equal(one, other)


def test_block_parameters(model: Transformer):
    """Four matrices of attention and two of the MLP in each of two layers."""
    assert block_parameters(model.config) == 2 * (4 * 32 * 32 + 2 * 32 * 128)


# Limits


def short_model(folder: Path) -> LanguageModel:
    return tiny_model(folder, **{**ARITHMETIC["gpt2"], "max_positions": 12})


def test_prompts_beyond_the_last_position(tmp_path: Path):
    model = short_model(tmp_path)
    pairs = tiny_pairs([9, 13])
    with pytest.raises(pie_jax.InputError, match=r"row 1 has 13 tokens, but tiny .* 12 positions"):
        pie_jax.prune(model, tiny_transcoder(model), pairs, methods=("fap",), budgets=(2,))
    rotary = replace(model, transformer=tiny_model(tmp_path, max_positions=12).transformer)
    rotary.require_positions(13, "row 2")


def test_texts_and_windows_beyond_the_last_position(tmp_path: Path):
    model = short_model(tmp_path)
    reader = FeatureReader(model, tiny_transcoder(model), [FeatureKey(0, 1)])
    with pytest.raises(pie_jax.InputError, match=r"--window has 13 tokens"):
        reader.read(np.ones((1, 16), np.int32), np.array([13]))
    reader.read(np.ones((1, 16), np.int32), np.array([12]))


def test_continuations_beyond_the_last_position(tmp_path: Path):
    model = short_model(tmp_path)
    steerer = Steerer(model, tiny_transcoder(model))
    with pytest.raises(pie_jax.InputError, match=r"continuation has 13 tokens"):
        steerer.continuations(FeatureKey(0, 1), 2.0, ["w5 w6 w7"], new_tokens=9, most=8)
