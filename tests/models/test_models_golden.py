"""Logits and streams equal transformers' on tiny random models (golden/make_logits.py)."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pie_jax.models.config import ModelConfig
from pie_jax.models.families import FAMILIES
from pie_jax.models.loader import load_transformer, read_config
from pie_jax.models.transformer import Outputs

# float32 on both sides; logits reach about ten.
TOLERANCE = 1e-4
GOLDEN = Path(__file__).parents[1] / "golden"
CASES = sorted(path.name for path in (GOLDEN / "models").iterdir())
ARRAYS = np.load(GOLDEN / "logits.npz")


def config_of(case: str) -> ModelConfig:
    return read_config(GOLDEN / "models" / case / "config.json")


@cache
def run(case: str, config: ModelConfig) -> Outputs:
    """Run the case's two prompts through its weights under a config."""
    model = load_transformer(GOLDEN / "models" / case, config, jnp.dtype("float32"))
    return jax.jit(jax.vmap(model))(jnp.asarray(ARRAYS[f"{case}/tokens"], jnp.int32))


def gap(ours: jax.Array, theirs: np.ndarray) -> float:
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max())


@pytest.mark.parametrize("case", CASES)
def test_logits_and_streams_equal_transformers(case: str):
    out = run(case, config_of(case))
    assert gap(out.resid_mid[0], ARRAYS[f"{case}/resid_mid"]) <= TOLERANCE
    assert gap(out.mlp_out[0], ARRAYS[f"{case}/mlp_out"]) <= TOLERANCE
    assert gap(out.logits, ARRAYS[f"{case}/logits"]) <= TOLERANCE


def test_cases_cover_what_checkpoints_differ_in():
    configs = [config_of(case) for case in CASES]
    shared = {(c.family, c.num_heads // c.num_kv_heads, c.num_kv_heads == 1) for c in configs}
    kinds = {(1, False), (2, False), (4, True)}  # MHA, GQA, MQA
    assert shared >= {(family, *kind) for family in ("llama", "gemma2") for kind in kinds}
    assert {(c.family, c.tie_embeddings) for c in configs} >= {
        (family, tied) for family in ("llama", "gemma2", "qwen3") for tied in (True, False)
    }
    assert {c.family for c in configs} == set(FAMILIES)
    length = ARRAYS[f"{CASES[0]}/tokens"].shape[1]
    assert all(c.sliding_window < length for c in configs if c.sliding_window is not None)
    assert {c.rope_scaling is None for c in configs if c.family == "llama"} == {True, False}


MUTATIONS = [
    ("llama-gqa-untied-llama3", {"rope_scaling": None}),
    ("llama-mqa-tied-llama3", {"rope_scaling": None}),
    ("llama-mqa-tied-llama3", {"rope_theta": 10000.0}),
    ("llama-gqa-untied-llama3", {"norm_eps": 1e-6}),
    ("llama-mha-tied", {"activation": "gelu_tanh"}),
    ("llama-mha-tied", {"query_scale": 0.3}),
    ("gemma2-gqa-tied", {"attention_softcap": None}),
    ("gemma2-mqa-tied", {"attention_softcap": None}),
    ("gemma2-gqa-tied", {"final_softcap": None}),
    ("gemma2-mha-untied", {"final_softcap": None}),
    ("gemma2-gqa-tied", {"query_scale": None}),
    ("gemma2-gqa-tied", {"norm_offset": 0.0}),
    ("gemma2-gqa-tied", {"scale_embeddings": False}),
    ("gemma2-gqa-tied", {"sliding_window": 6}),
    ("gemma2-gqa-tied", {"sliding_layers": (False, True)}),
    ("gemma2-mqa-tied", {"sliding_layers": (False, False, False, False)}),
    ("gemma2-mha-untied", {"sliding_layers": (True, False, True)}),
    ("qwen3-gqa-tied", {"norm_eps": 1e-6}),
    ("qwen3-untied-late-window", {"sliding_layers": ()}),
    ("mistral-gqa-untied-window", {"sliding_window": None}),
    ("gemma3-gqa-tied", {"local_rope_theta": None}),
    ("gemma3-gqa-tied", {"rope_scaling": None}),
    ("gemma3-gqa-tied", {"query_scale": None}),
    ("gemma3-mqa-multimodal", {"local_rope_theta": 1000.0}),
    ("gemma3-mqa-multimodal", {"rope_scaling": None}),
    ("gemma3-mqa-multimodal", {"sliding_layers": (False, False)}),
    ("gpt2-tied", {"norm_eps": 1e-5}),
    ("gpt2-tied", {"activation": "silu"}),
    ("gpt2-untied-inner", {"query_scale": None}),
]


@pytest.mark.parametrize(("case", "change"), MUTATIONS, ids=str)
def test_every_part_of_the_config_shows_in_the_logits(case: str, change: dict):
    wrong = run(case, replace(config_of(case), **change))
    assert gap(wrong.logits, ARRAYS[f"{case}/logits"]) > 100 * TOLERANCE


@pytest.mark.parametrize("case", ["llama-mha-tied", "gemma2-gqa-tied", "gpt2-tied"])
def test_bfloat16_stays_close(case: str):
    """Weights in bfloat16 give 8 bits: the logits move, but not far."""
    folder = GOLDEN / "models" / case
    model = load_transformer(folder, config_of(case), jnp.dtype("bfloat16"))
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(model))
    logits = jax.vmap(model)(jnp.asarray(ARRAYS[f"{case}/tokens"], jnp.int32)).logits
    theirs = ARRAYS[f"{case}/logits"]
    assert logits.dtype == jnp.float32
    assert 1e-4 < gap(logits, theirs) < 0.1 * np.abs(theirs).max()
