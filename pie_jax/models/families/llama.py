"""Llama 3.x: grouped-query attention, SiLU, llama3 RoPE scaling."""

from __future__ import annotations

from typing import Any

from pie_jax.models.config import ModelConfig
from pie_jax.models.families.base import Family, Fields, Tensor
from pie_jax.models.families.settings import parse_sizes, unparse_sizes
from pie_jax.models.families.tensors import common_tensors, norm


def parse(fields: Fields) -> ModelConfig:
    """Read a Llama config.json."""
    fields.expect("attention_bias", (False,))
    fields.expect("mlp_bias", (False,))
    fields.expect("hidden_act", ("silu",))
    return ModelConfig(family="llama", **parse_sizes(fields, kv_heads=False))


def unparse(config: ModelConfig) -> dict[str, Any]:
    """Write a Llama config.json."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "mlp_bias": False,
        "hidden_act": "silu",
        **unparse_sizes(config),
    }


TENSORS: dict[str, Tensor] = {
    **common_tensors(),
    "blocks.mlp_norm.weight": norm("model.layers.{}.post_attention_layernorm.weight"),
}

FAMILY = Family("llama", "LlamaForCausalLM", parse, unparse, TENSORS)
