"""config.json: published files, both spellings, round trips, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from published_configs import (
    GEMMA_2_2B,
    GEMMA_3_1B,
    GEMMA_3_4B,
    LLAMA_3_2_1B,
    MISTRAL_7B,
    PUBLISHED,
    QWEN2_5_0_5B,
    QWEN3_0_6B,
)
from refusals import refuses

from pie_jax.errors import InputError
from pie_jax.models.config import PRESETS, Llama3Rope, ModelConfig, rope_frequencies
from pie_jax.models.families import FAMILIES
from pie_jax.models.loader import read_config

ROPE = LLAMA_3_2_1B["rope_scaling"]
NO_ROPE = {**LLAMA_3_2_1B, "rope_theta": None, "rope_scaling": None}

Read = Callable[[Any], ModelConfig]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.json"


@pytest.fixture
def read(path: Path) -> Read:
    def read_raw(raw: Any) -> ModelConfig:
        path.write_text(json.dumps(raw))
        return read_config(path)

    return read_raw


@pytest.mark.parametrize("preset", PUBLISHED)
def test_published_files_are_the_presets(preset: str, read: Read):
    assert read(PUBLISHED[preset]) == PRESETS[preset]


def test_a_late_window(read: Read):
    """Qwen's window counts where it is switched on, from a layer on or where `layer_types` says."""
    switched_off = {**QWEN3_0_6B, "sliding_window": 4096, "max_window_layers": 3}
    assert read(switched_off) == PRESETS["qwen3-0.6b"]
    late = read({**switched_off, "use_sliding_window": True})
    assert late.sliding_window == 4096
    assert late.sliding_layers == (False,) * 3 + (True,) * 25
    unused = {**switched_off, "use_sliding_window": True, "max_window_layers": 28}
    assert read(unused) == PRESETS["qwen3-0.6b"]
    kinds = ["full_attention", "sliding_attention"] * 14
    named = {**switched_off, "use_sliding_window": True, "layer_types": kinds}
    assert read(named).sliding_layers == (False, True) * 14
    assert read({**QWEN3_0_6B, "layer_types": kinds[:1] * 28}) == PRESETS["qwen3-0.6b"]


def test_new_spelling_is_the_same_config(read: Read):
    new = {**NO_ROPE, "rope_parameters": {**ROPE, "rope_theta": 500000.0}}
    assert read(new) == PRESETS["llama-3.2-1b"]
    kinds = ["sliding_attention", "full_attention"] * 13
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    new = {**GEMMA_2_2B, "rope_theta": None, "rope_parameters": rope, "layer_types": kinds}
    assert read(new) == PRESETS["gemma-2-2b"]


def test_spellings_that_agree_may_stand_beside_each_other(read: Read):
    both = {**LLAMA_3_2_1B, "rope_parameters": {**ROPE, "rope_theta": 500000.0}}
    assert read(both) == PRESETS["llama-3.2-1b"]
    assert read({**both, "rope_theta": None, "rope_scaling": {}}) == PRESETS["llama-3.2-1b"]


def test_two_ropes(read: Read):
    """Gemma 3's in both spellings; without a word they are the class's."""
    new = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    text = {**GEMMA_3_4B["text_config"], "rope_scaling": None, "rope_parameters": new}
    assert read({**GEMMA_3_4B, "text_config": text}) == PRESETS["gemma-3-4b"]
    both = {**text, "rope_scaling": GEMMA_3_4B["text_config"]["rope_scaling"], "rope_theta": 1e6}
    assert read({**GEMMA_3_4B, "text_config": both}) == PRESETS["gemma-3-4b"]
    without = {key: value for key, value in GEMMA_3_1B.items() if not key.startswith("rope_")}
    assert read(without) == PRESETS["gemma-3-1b"]
    kinds = [f"{'sliding' if (i + 1) % 6 else 'full'}_attention" for i in range(26)]
    named = {**GEMMA_3_1B, "layer_types": kinds, "sliding_window_pattern": None}
    assert read(named) == PRESETS["gemma-3-1b"]
    odd = {**GEMMA_3_1B, "rope_local_base_freq": 5e3, "sliding_window_pattern": 2}
    assert read(odd).local_rope_theta == 5e3
    assert read(odd).sliding_layers == (True, False) * 13


def test_a_window_of_all_layers(read: Read):
    """Mistral's: null is none, and without a word it is the class's."""
    config = read({**MISTRAL_7B, "sliding_window": None})
    assert config == replace(PRESETS["mistral-7b"], sliding_window=None, sliding_layers=())
    assert read(FAMILIES["mistral"].unparse(config)) == config
    without = {key: value for key, value in MISTRAL_7B.items() if key != "sliding_window"}
    assert read(without) == PRESETS["mistral-7b"]


def test_without_a_base_rope_has_the_default(read: Read):
    without = {key: value for key, value in LLAMA_3_2_1B.items() if key != "rope_theta"}
    assert read(without) == replace(PRESETS["llama-3.2-1b"], rope_theta=10000.0)
    assert read({**without, "rope_theta": None}).rope_theta == 10000.0


def test_attributes_that_change_nothing_are_let_through(read: Read):
    idle = {
        "_attn_implementation_autoset": True,
        "_model_name_or_path": "x",
        "max_length": 20,
        "partial_rotary_factor": 1.0,
        "pruned_heads": {},
        "quantization_config": None,
        "rope_interleaved": False,
        "sep_token_id": None,
        "some_new_flag": None,
        "temperature": 0.7,
        "tokenizer_class": "LlamaTokenizer",
        "transformers.js_config": {"dtype": "q4"},
        "unk_token_id": 0,
        "unsloth_version": "2025.3",
    }
    assert read({**LLAMA_3_2_1B, **idle}) == PRESETS["llama-3.2-1b"]
    assert read({**GEMMA_2_2B, **idle}) == PRESETS["gemma-2-2b"]


def test_older_spelling_of_the_rope_type(read: Read):
    scaling = {("type" if key == "rope_type" else key): value for key, value in ROPE.items()}
    assert read({**LLAMA_3_2_1B, "rope_scaling": scaling}) == PRESETS["llama-3.2-1b"]


def test_defaults_of_the_families(read: Read):
    """Llama unties and Gemma ties unless told; Llama's heads follow from its width."""
    left_out = ("tie_word_embeddings", "head_dim", "num_key_value_heads", "rope_scaling")
    config = read({key: value for key, value in LLAMA_3_2_1B.items() if key not in left_out})
    expected = replace(
        PRESETS["llama-3.2-1b"], tie_embeddings=False, num_kv_heads=32, rope_scaling=None
    )
    assert config == expected
    assert read({**GEMMA_2_2B, "tie_word_embeddings": None}).tie_embeddings
    no_caps = read({**GEMMA_2_2B, "attn_logit_softcapping": None, "final_logit_softcapping": None})
    assert no_caps.attention_softcap is None
    assert no_caps.final_softcap is None


@pytest.mark.parametrize("preset", PRESETS)
def test_unparse_and_parse(preset: str, read: Read):
    config = PRESETS[preset]
    assert read(FAMILIES[config.family].unparse(config)) == config


def test_unparse_and_parse_of_what_presets_lack(read: Read):
    llama = replace(PRESETS["llama-3.2-1b"], rope_scaling=None, tie_embeddings=False)
    gemma = replace(
        PRESETS["gemma-2-2b"],
        query_scale=144**-0.5,
        attention_softcap=None,
        sliding_layers=(True,) * 26,
        rope_scaling=Llama3Rope(2.0, 1.0, 4.0, 8192),
    )
    qwen = replace(
        PRESETS["qwen3-4b"], sliding_window=512, sliding_layers=(False,) * 9 + (True,) * 27
    )
    for config in (llama, gemma, qwen):
        assert read(FAMILIES[config.family].unparse(config)) == config


def test_rope_frequencies():
    """Short waves stay, long ones are divided by the factor, in between runs smoothly."""
    config = PRESETS["llama-3.2-1b"]
    plain = rope_frequencies(replace(config, rope_scaling=None))
    scaled = rope_frequencies(config)
    np.testing.assert_allclose(plain, 500000.0 ** -(np.arange(0, 64, 2) / 64), rtol=1e-6)
    waves = 2 * np.pi / plain
    ratio = plain / scaled
    np.testing.assert_allclose(ratio[waves < 8192 / 4], 1)
    np.testing.assert_allclose(ratio[waves > 8192], 32, rtol=1e-6)
    between = (waves > 8192 / 4) & (waves < 8192)
    assert between.any()
    assert np.all((ratio[between] > 1) & (ratio[between] < 32))
    assert np.all(np.diff(ratio) >= -1e-6)


REFUSED = [
    (LLAMA_3_2_1B, {"model_type": "mistral"}, "'mistral'"),
    (LLAMA_3_2_1B, {"model_type": None}, "model type None"),
    (LLAMA_3_2_1B, {"model_type": ["llama"]}, "model type ['llama']"),
    (LLAMA_3_2_1B, {"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequence"),
    (LLAMA_3_2_1B, {"architectures": "LlamaForCausalLM"}, "architectures"),
    (GEMMA_2_2B, {"model_type": "gemma3_text"}, "'gemma3_text'"),
    (GEMMA_3_4B, {"model_type": "gemma3_text"}, "'gemma3_text'"),
    (GEMMA_3_1B, {"model_type": "gemma3"}, "'gemma3'"),
    (GEMMA_3_4B, {"text_config": None}, "`text_config`"),
    (GEMMA_3_4B, {"text_config": {"model_type": "gemma2"}}, "`text_config`"),
    (GEMMA_3_4B, {"text_config": {"some_new_flag": 1}}, "`some_new_flag`"),
    (GEMMA_3_4B, {"quantization_config": {"bits": 4}}, "`quantization_config`"),
    (GEMMA_3_4B, {"tie_word_embeddings": False}, "`tie_word_embeddings`"),
    (GEMMA_3_1B, {"sliding_window": None}, "`sliding_window`"),
    (GEMMA_3_1B, {"sliding_window_pattern": "6"}, "`sliding_window_pattern`"),
    (GEMMA_3_1B, {"use_bidirectional_attention": True}, "`use_bidirectional_attention`"),
    (GEMMA_3_1B, {"rope_local_base_freq": 0}, "`rope_local_base_freq`"),
    (GEMMA_3_1B, {"rope_parameters": {"rope_theta": 1e6}}, "`rope_parameters`"),
    (GEMMA_3_1B, {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "full_attention"),
    (GEMMA_3_1B, {"rope_parameters": {"full_attention": 3}}, "`rope_parameters`"),
    (
        GEMMA_3_1B,
        {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
        "sliding layers",
    ),
    # Attributes that change the forward pass in ways that are not handled.
    (LLAMA_3_2_1B, {"attention_bias": True}, "`attention_bias`"),
    (LLAMA_3_2_1B, {"mlp_bias": True}, "`mlp_bias`"),
    (LLAMA_3_2_1B, {"hidden_act": "gelu"}, "`hidden_act`"),
    (LLAMA_3_2_1B, {"quantization_config": {"bits": 4}}, "`quantization_config`"),
    (LLAMA_3_2_1B, {"some_new_flag": 1}, "`some_new_flag`"),
    (LLAMA_3_2_1B, {"sliding_window": 4096}, "`sliding_window`"),
    (GEMMA_2_2B, {"use_bidirectional_attention": True}, "`use_bidirectional_attention`"),
    (GEMMA_2_2B, {"hidden_activation": "gelu"}, "`hidden_activation`"),
    (GEMMA_2_2B, {"attention_bias": True}, "`attention_bias`"),
    (GEMMA_2_2B, {"some_new_flag": False}, "`some_new_flag`"),
    (LLAMA_3_2_1B, {"rope_interleaved": True}, "`rope_interleaved`"),
    (LLAMA_3_2_1B, {"pruned_heads": {"0": [1]}}, "`pruned_heads`"),
    # RoPE.
    (LLAMA_3_2_1B, {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "'yarn'"),
    (LLAMA_3_2_1B, {"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "'dynamic'"),
    (LLAMA_3_2_1B, {"rope_scaling": {"type": "linear", "factor": -4.0}}, "'linear'"),
    (LLAMA_3_2_1B, {"rope_scaling": {"type": "linear"}}, "'linear'"),
    (LLAMA_3_2_1B, {"rope_scaling": {**ROPE, "extra": 1}}, "extra"),
    (LLAMA_3_2_1B, {"rope_scaling": {**ROPE, "factor": "32"}}, "'32'"),
    (LLAMA_3_2_1B, {"rope_scaling": {**ROPE, "factor": 0}}, "RoPE scaling"),
    (LLAMA_3_2_1B, {"rope_scaling": {**ROPE, "low_freq_factor": 4.0}}, "low_freq_factor"),
    (LLAMA_3_2_1B, {"rope_scaling": [1, 2]}, "[1, 2]"),
    (LLAMA_3_2_1B, {"rope_theta": "big"}, "`rope_theta`"),
    (LLAMA_3_2_1B, {"rope_theta": -1.0}, "`rope_theta`"),
    (NO_ROPE, {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "full_attention"),
    (
        NO_ROPE,
        {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        "partial_rotary_factor",
    ),
    # Two spellings that disagree.
    (LLAMA_3_2_1B, {"rope_parameters": {**ROPE, "factor": 8.0}}, "'factor': 8.0"),
    (LLAMA_3_2_1B, {"rope_parameters": {**ROPE, "factor": 8.0}}, "'factor': 32.0"),
    (LLAMA_3_2_1B, {"rope_parameters": {"rope_type": "default"}}, "`rope_scaling`"),
    (LLAMA_3_2_1B, {"rope_parameters": {**ROPE, "rope_theta": 1e4}}, "`rope_theta` is 500000.0"),
    # Sizes.
    (LLAMA_3_2_1B, {"hidden_size": None}, "`hidden_size`"),
    (LLAMA_3_2_1B, {"hidden_size": 20.5}, "`hidden_size`"),
    (LLAMA_3_2_1B, {"hidden_size": True}, "`hidden_size`"),
    (LLAMA_3_2_1B, {"num_hidden_layers": "16"}, "`num_hidden_layers`"),
    (LLAMA_3_2_1B, {"num_hidden_layers": 0}, "`num_hidden_layers`"),
    (LLAMA_3_2_1B, {"num_attention_heads": 0}, "`num_attention_heads`"),
    (LLAMA_3_2_1B, {"num_key_value_heads": "8"}, "`num_key_value_heads`"),
    (LLAMA_3_2_1B, {"num_key_value_heads": 5}, "multiple of 5"),
    (LLAMA_3_2_1B, {"head_dim": 63}, "63"),
    (LLAMA_3_2_1B, {"head_dim": [64]}, "`head_dim`"),
    (LLAMA_3_2_1B, {"rms_norm_eps": float("nan")}, "`rms_norm_eps`"),
    (LLAMA_3_2_1B, {"rms_norm_eps": float("inf")}, "`rms_norm_eps`"),
    (LLAMA_3_2_1B, {"tie_word_embeddings": "no"}, "`tie_word_embeddings`"),
    (GEMMA_2_2B, {"tie_word_embeddings": 1}, "`tie_word_embeddings`"),
    (GEMMA_2_2B, {"query_pre_attn_scalar": 0}, "`query_pre_attn_scalar`"),
    (GEMMA_2_2B, {"attn_logit_softcapping": "50"}, "`attn_logit_softcapping`"),
    (GEMMA_2_2B, {"final_logit_softcapping": 0.0}, "`final_logit_softcapping`"),
    (GEMMA_2_2B, {"sliding_window": None}, "`sliding_window`"),
    (GEMMA_2_2B, {"layer_types": ["full_attention"]}, "`layer_types`"),
    (GEMMA_2_2B, {"layer_types": ["chunked_attention"] * 26}, "`layer_types`"),
    (GEMMA_2_2B, {"layer_types": 26}, "`layer_types`"),
    (GEMMA_2_2B, {"layer_types": [["full_attention"]] * 26}, "`layer_types`"),
    (QWEN3_0_6B, {"attention_bias": True}, "`attention_bias`"),
    (QWEN2_5_0_5B, {"use_mrope": True}, "`use_mrope`"),
    (MISTRAL_7B, {"sliding_window": 0}, "`sliding_window`"),
    (QWEN3_0_6B, {"layer_types": ["sliding_attention"] * 28}, "`use_sliding_window`"),
    (QWEN3_0_6B, {"use_sliding_window": True, "max_window_layers": "3"}, "`max_window_layers`"),
    (
        QWEN3_0_6B,
        {"use_sliding_window": True, "max_window_layers": 3, "sliding_window": 0.5},
        "`sliding_window`",
    ),
]


@pytest.mark.parametrize(("raw", "change", "named"), REFUSED, ids=lambda value: str(value)[:40])
def test_refused_by_name(raw: dict, change: dict, named: str, read: Read, path: Path):
    refuses(lambda: read({**raw, **change}), path, named)


@pytest.mark.parametrize("raw", PUBLISHED.values(), ids=PUBLISHED)
def test_every_attribute_may_hold_nonsense(raw: dict, read: Read):
    """Whatever is put in place of a value, the file is read or refused."""
    for key in raw:
        for value in (None, "x", -1, 0.5, [], {}, [[]], {"rope_type": {}}, True, 10**400):
            try:
                read({**raw, key: value})
            except InputError:
                continue


def test_files_that_are_no_config(tmp_path: Path):
    path = tmp_path / "config.json"
    refuses(lambda: read_config(path), path, "cannot be read")
    for text in (b"", b"{", b"\xff\xfe\xff", b"[" * 100_000):
        path.write_bytes(text)
        refuses(lambda: read_config(path), path, "not valid JSON")
    path.write_text("[]")
    refuses(lambda: read_config(path), path, "one JSON object")
