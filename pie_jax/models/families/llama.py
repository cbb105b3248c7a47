"""Llama 3.x: grouped-query attention, SiLU, llama3 RoPE scaling."""

from __future__ import annotations

from typing import Any

from pie_jax.models.config import ModelConfig
from pie_jax.models.families.base import (
    Family,
    Fields,
    Tensor,
    common_tensors,
    norm,
    parse_rope,
    unparse_rope,
)


def parse(fields: Fields) -> ModelConfig:
    """Read a Llama config.json."""
    fields.expect("attention_bias", (False,))
    fields.expect("mlp_bias", (False,))
    fields.expect("hidden_act", ("silu",))
    theta, scaling = parse_rope(fields)
    heads, d_model = fields.need("num_attention_heads", int), fields.need("hidden_size", int)
    return ModelConfig(
        family="llama",
        vocab_size=fields.need("vocab_size", int),
        num_layers=fields.need("num_hidden_layers", int),
        d_model=d_model,
        d_mlp=fields.need("intermediate_size", int),
        num_heads=heads,
        num_kv_heads=fields.need("num_key_value_heads", int, heads),
        head_dim=fields.need("head_dim", int, d_model // heads),
        norm_eps=fields.need("rms_norm_eps", float),
        rope_theta=theta,
        rope_scaling=scaling,
        max_positions=fields.need("max_position_embeddings", int),
        tie_embeddings=fields.flag("tie_word_embeddings", False),
    )


def unparse(config: ModelConfig) -> dict[str, Any]:
    """Write a Llama config.json."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "mlp_bias": False,
        "hidden_act": "silu",
        "hidden_size": config.d_model,
        "intermediate_size": config.d_mlp,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "rms_norm_eps": config.norm_eps,
        **unparse_rope(config),
        "max_position_embeddings": config.max_positions,
        "tie_word_embeddings": config.tie_embeddings,
    }


_TENSORS: dict[str, Tensor] = {
    **common_tensors(),
    "blocks.mlp_norm.weight": norm("model.layers.{}.post_attention_layernorm.weight"),
}

FAMILY = Family("llama", "LlamaForCausalLM", parse, unparse, _TENSORS)
