"""Qwen2 and 2.5: Llama with biases of queries, keys and values."""

from __future__ import annotations

from typing import Any

from pie_jax.models.config import ModelConfig
from pie_jax.models.families.base import Family, Fields, Tensor
from pie_jax.models.families.settings import (
    parse_late_window,
    parse_sizes,
    unparse_late_window,
    unparse_sizes,
)
from pie_jax.models.families.tensors import common_tensors, head_biases, norm


def parse(fields: Fields) -> ModelConfig:
    """Read a Qwen2 config.json."""
    fields.expect("hidden_act", ("silu",))
    sizes = parse_sizes(fields)
    window = parse_late_window(fields, sizes["num_layers"])
    return ModelConfig(family="qwen2", **sizes, **window, qkv_bias=True)


def unparse(config: ModelConfig) -> dict[str, Any]:
    """Write a Qwen2 config.json."""
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_act": "silu",
        **unparse_sizes(config),
        **unparse_late_window(config),
    }


_TENSORS: dict[str, Tensor] = {
    **common_tensors(),
    **head_biases(),
    "blocks.mlp_norm.weight": norm("model.layers.{}.post_attention_layernorm.weight"),
}

FAMILY = Family("qwen2", "Qwen2ForCausalLM", parse, unparse, _TENSORS)
