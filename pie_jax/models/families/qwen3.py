"""Qwen3: Llama with a norm over each head of queries and keys."""

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
from pie_jax.models.families.tensors import common_tensors, head_norms, norm


def parse(fields: Fields) -> ModelConfig:
    """Read a Qwen3 config.json."""
    fields.expect("attention_bias", (False,))
    fields.expect("hidden_act", ("silu",))
    sizes = {**parse_sizes(fields), "head_dim": fields.need("head_dim", int, 128)}
    window = parse_late_window(fields, sizes["num_layers"])
    return ModelConfig(family="qwen3", **sizes, **window, qk_norm=True)


def unparse(config: ModelConfig) -> dict[str, Any]:
    """Write a Qwen3 config.json."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "attention_bias": False,
        "hidden_act": "silu",
        **unparse_sizes(config),
        **unparse_late_window(config),
    }


_TENSORS: dict[str, Tensor] = {
    **common_tensors(),
    **head_norms(),
    "blocks.mlp_norm.weight": norm("model.layers.{}.post_attention_layernorm.weight"),
}

FAMILY = Family("qwen3", "Qwen3ForCausalLM", parse, unparse, _TENSORS)
