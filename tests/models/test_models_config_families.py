"""config.json: what one family has and others lack."""

from __future__ import annotations

from dataclasses import replace

from config_files import (
    GEMMA_2_2B,
    GEMMA_3_1B,
    GEMMA_3_4B,
    GPT2,
    LLAMA_3_2_1B,
    MISTRAL_7B,
    QWEN3_0_6B,
    Read,
)

from pie_jax.models.config import PRESETS
from pie_jax.models.families import FAMILIES


def test_a_late_window(read_raw: Read):
    """Qwen's window counts where it is switched on, from a layer on or where `layer_types` says."""
    switched_off = {**QWEN3_0_6B, "sliding_window": 4096, "max_window_layers": 3}
    assert read_raw(switched_off) == PRESETS["qwen3-0.6b"]
    late = read_raw({**switched_off, "use_sliding_window": True})
    assert late.sliding_window == 4096
    assert late.sliding_layers == (False,) * 3 + (True,) * 25
    unused = {**switched_off, "use_sliding_window": True, "max_window_layers": 28}
    assert read_raw(unused) == PRESETS["qwen3-0.6b"]
    kinds = ["full_attention", "sliding_attention"] * 14
    named = {**switched_off, "use_sliding_window": True, "layer_types": kinds}
    assert read_raw(named).sliding_layers == (False, True) * 14
    assert read_raw({**QWEN3_0_6B, "layer_types": kinds[:1] * 28}) == PRESETS["qwen3-0.6b"]


def test_two_ropes(read_raw: Read):
    """Gemma 3's in both spellings; without a word they are the class's."""
    new = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    text = {**GEMMA_3_4B["text_config"], "rope_scaling": None, "rope_parameters": new}
    assert read_raw({**GEMMA_3_4B, "text_config": text}) == PRESETS["gemma-3-4b"]
    both = {**text, "rope_scaling": GEMMA_3_4B["text_config"]["rope_scaling"], "rope_theta": 1e6}
    assert read_raw({**GEMMA_3_4B, "text_config": both}) == PRESETS["gemma-3-4b"]
    without = {key: value for key, value in GEMMA_3_1B.items() if not key.startswith("rope_")}
    assert read_raw(without) == PRESETS["gemma-3-1b"]
    kinds = [f"{'sliding' if (i + 1) % 6 else 'full'}_attention" for i in range(26)]
    named = {**GEMMA_3_1B, "layer_types": kinds, "sliding_window_pattern": None}
    assert read_raw(named) == PRESETS["gemma-3-1b"]
    odd = {**GEMMA_3_1B, "rope_local_base_freq": 5e3, "sliding_window_pattern": 2}
    assert read_raw(odd).local_rope_theta == 5e3
    assert read_raw(odd).sliding_layers == (True, False) * 13


def test_a_window_of_all_layers(read_raw: Read):
    """Mistral's: null is none, and without a word it is the class's."""
    config = read_raw({**MISTRAL_7B, "sliding_window": None})
    assert config == replace(PRESETS["mistral-7b"], sliding_window=None, sliding_layers=())
    assert read_raw(FAMILIES["mistral"].unparse(config)) == config
    without = {key: value for key, value in MISTRAL_7B.items() if key != "sliding_window"}
    assert read_raw(without) == PRESETS["mistral-7b"]


def test_defaults_of_the_families(read_raw: Read):
    """Llama unties and Gemma ties unless told; Llama's heads follow from its width."""
    left_out = ("tie_word_embeddings", "head_dim", "num_key_value_heads", "rope_scaling")
    config = read_raw({key: value for key, value in LLAMA_3_2_1B.items() if key not in left_out})
    expected = replace(
        PRESETS["llama-3.2-1b"], tie_embeddings=False, num_kv_heads=32, rope_scaling=None
    )
    assert config == expected
    assert read_raw({**GEMMA_2_2B, "tie_word_embeddings": None}).tie_embeddings
    no_caps = read_raw(
        {**GEMMA_2_2B, "attn_logit_softcapping": None, "final_logit_softcapping": None}
    )
    assert no_caps.attention_softcap is None
    assert no_caps.final_softcap is None


def test_gpt2_without_a_word_has_the_defaults_of_the_class(read_raw: Read):
    assert read_raw({"model_type": "gpt2"}) == PRESETS["gpt2"]
    config = read_raw({**GPT2, "n_inner": 40, "scale_attn_weights": False})
    assert (config.d_mlp, config.scale) == (40, 1.0)
    assert read_raw(FAMILIES["gpt2"].unparse(config)) == config
    idle = {"reorder_and_upcast_attn": True, "predict_special_tokens": True}
    same = {"activation_function": "gelu_pytorch_tanh"}
    assert read_raw({**GPT2, **idle, **same}) == PRESETS["gpt2"]
    # Without rotation, heads may have an odd size.
    assert read_raw({**GPT2, "n_embd": 36}).head_dim == 3
