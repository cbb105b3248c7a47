"""Qwen3: Llama with a norm over each head of queries and keys."""

from __future__ import annotations

from typing import Any

from pie_jax.models.config import ModelConfig
from pie_jax.models.families.base import (
    Family,
    Fields,
    Tensor,
    common_tensors,
    head_norms,
    norm,
    parse_late_window,
    parse_rope,
    unparse_late_window,
    unparse_rope,
)


def parse(fields: Fields) -> ModelConfig:
    """Read a Qwen3 config.json."""
    fields.expect("attention_bias", (False,))
    fields.expect("hidden_act", ("silu",))
    theta, scaling = parse_rope(fields)
    layers = fields.need("num_hidden_layers", int)
    return ModelConfig(
        family="qwen3",
        vocab_size=fields.need("vocab_size", int),
        num_layers=layers,
        d_model=fields.need("hidden_size", int),
        d_mlp=fields.need("intermediate_size", int),
        num_heads=fields.need("num_attention_heads", int),
        num_kv_heads=fields.need("num_key_value_heads", int),
        head_dim=fields.need("head_dim", int, 128),
        norm_eps=fields.need("rms_norm_eps", float),
        rope_theta=theta,
        rope_scaling=scaling,
        max_positions=fields.need("max_position_embeddings", int),
        tie_embeddings=fields.flag("tie_word_embeddings", False),
        qk_norm=True,
        **parse_late_window(fields, layers),
    )


def unparse(config: ModelConfig) -> dict[str, Any]:
    """Write a Qwen3 config.json."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "attention_bias": False,
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
        **unparse_late_window(config),
        "max_position_embeddings": config.max_positions,
        "tie_word_embeddings": config.tie_embeddings,
    }


_TENSORS: dict[str, Tensor] = {
    **common_tensors(),
    **head_norms(),
    "blocks.mlp_norm.weight": norm("model.layers.{}.post_attention_layernorm.weight"),
}

FAMILY = Family("qwen3", "Qwen3ForCausalLM", parse, unparse, _TENSORS)
