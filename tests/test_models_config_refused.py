"""config.json: what is refused, by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_files import (
    GEMMA_2_2B,
    GEMMA_3_1B,
    GEMMA_3_4B,
    GPT2,
    LLAMA_3_2_1B,
    MISTRAL_7B,
    NO_ROPE,
    QWEN2_5_0_5B,
    QWEN3_0_6B,
    ROPE,
    Read,
)
from refusals import refuses

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
    (GPT2, {"activation_function": "gelu"}, "`activation_function`"),
    (GPT2, {"scale_attn_by_inverse_layer_idx": True}, "`scale_attn_by_inverse_layer_idx`"),
    (GPT2, {"add_cross_attention": True}, "`add_cross_attention`"),
    (GPT2, {"n_head": 7}, "multiple of `n_head` 7"),
    (GPT2, {"n_positions": 0}, "`n_positions`"),
    (GPT2, {"rope_theta": 1e4}, "`rope_theta`"),
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
def test_refused_by_name(raw: dict, change: dict, named: str, read_raw: Read, config_json: Path):
    refuses(lambda: read_raw({**raw, **change}), config_json, named)
