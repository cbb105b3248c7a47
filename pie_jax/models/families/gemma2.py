"""Gemma 2: alternating sliding window, two soft caps, four norms, scaled embeddings."""

from __future__ import annotations

from typing import Any

from pie_jax.models.config import ModelConfig
from pie_jax.models.families.base import Family, Fields, Tensor
from pie_jax.models.families.rope import parse_rope
from pie_jax.models.families.settings import parse_layer_types, unparse_layer_types, unparse_sizes
from pie_jax.models.families.tensors import common_tensors, post_norms


def parse(fields: Fields) -> ModelConfig:
    """Read a Gemma-2 config.json."""
    fields.expect("attention_bias", (False,))
    fields.expect("use_bidirectional_attention", (False,))
    fields.expect("hidden_act", ("gelu_pytorch_tanh",))
    fields.expect("hidden_activation", ("gelu_pytorch_tanh",))
    theta, scaling = parse_rope(fields)
    layers = fields.layers("num_hidden_layers")
    return ModelConfig(
        family="gemma2",
        vocab_size=fields.need("vocab_size", int),
        num_layers=layers,
        d_model=fields.need("hidden_size", int),
        d_mlp=fields.need("intermediate_size", int),
        num_heads=fields.need("num_attention_heads", int),
        num_kv_heads=fields.need("num_key_value_heads", int),
        head_dim=fields.need("head_dim", int),
        norm_eps=fields.need("rms_norm_eps", float),
        rope_theta=theta,
        rope_scaling=scaling,
        max_positions=fields.need("max_position_embeddings", int),
        tie_embeddings=fields.flag("tie_word_embeddings", True),
        activation="gelu_tanh",
        norm_offset=1.0,
        post_norms=True,
        scale_embeddings=True,
        query_scale=fields.need("query_pre_attn_scalar", float) ** -0.5,
        attention_softcap=fields.number_or_none("attn_logit_softcapping"),
        final_softcap=fields.number_or_none("final_logit_softcapping"),
        sliding_window=fields.need("sliding_window", int),
        sliding_layers=parse_layer_types(fields, layers, lambda layer: layer % 2 == 0),
    )


def unparse(config: ModelConfig) -> dict[str, Any]:
    """Write a Gemma-2 config.json."""
    assert config.query_scale is not None
    return {
        "architectures": ["Gemma2ForCausalLM"],
        "model_type": "gemma2",
        "attention_bias": False,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        **unparse_sizes(config),
        "query_pre_attn_scalar": round(config.query_scale**-2),
        "attn_logit_softcapping": config.attention_softcap,
        "final_logit_softcapping": config.final_softcap,
        "sliding_window": config.sliding_window,
        "layer_types": unparse_layer_types(config),
    }


_TENSORS: dict[str, Tensor] = {**common_tensors(), **post_norms()}

FAMILY = Family("gemma2", "Gemma2ForCausalLM", parse, unparse, _TENSORS)
