"""Settings that several families spell alike: sizes, and which layers slide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pie_jax.errors import InputError
from pie_jax.models.config import ModelConfig
from pie_jax.models.families.base import Fields
from pie_jax.models.families.rope import parse_rope, unparse_rope

_LAYER_TYPES = {"sliding_attention": True, "full_attention": False}


def parse_layer_types(
    fields: Fields, layers: int, otherwise: Callable[[int], bool]
) -> tuple[bool, ...]:
    """Read from `layer_types` which layers slide; files without it mean `otherwise(layer)`."""
    kinds = fields.get("layer_types")
    if kinds is None:
        return tuple(otherwise(layer) for layer in range(layers))
    known = isinstance(kinds, list) and all(str(kind) in _LAYER_TYPES for kind in kinds)
    if not known or len(kinds) != layers:
        raise InputError(
            f"{fields.source}: `layer_types` must name {layers} layers out of "
            f"{sorted(_LAYER_TYPES)}, but it is {kinds!r}."
        )
    return tuple(_LAYER_TYPES[kind] for kind in kinds)


def unparse_layer_types(config: ModelConfig) -> list[str]:
    """Write `layer_types`."""
    slides = config.sliding_layers or (False,) * config.num_layers
    return ["sliding_attention" if one else "full_attention" for one in slides]


def parse_late_window(fields: Fields, layers: int) -> dict[str, Any]:
    """Read Qwen's window, which counts only if `use_sliding_window` is true, and which layers have
    it: those from `max_window_layers` on unless `layer_types` says otherwise."""
    used = fields.flag("use_sliding_window", False)
    window, first = fields.get("sliding_window", 4096), fields.get("max_window_layers", 28)
    if used and type(first) is not int:
        raise InputError(
            f"{fields.source}: `max_window_layers` must be a number of layers, but it is {first!r}."
        )
    slides = parse_layer_types(fields, layers, lambda layer: used and layer >= first)
    if not any(slides):
        return {}
    if not used:
        raise InputError(
            f"{fields.source}: `layer_types` names layers that slide, but `use_sliding_window` is "
            "false; keep the one that the model was trained with."
        )
    return {
        "sliding_window": fields.need("sliding_window", int, window),
        "sliding_layers": slides,
    }


def unparse_late_window(config: ModelConfig) -> dict[str, Any]:
    """Write Qwen's window, for loaders that read `layer_types` and for older ones."""
    return {
        "use_sliding_window": config.sliding_window is not None,
        "sliding_window": config.sliding_window,
        "max_window_layers": config.num_layers - sum(config.sliding_layers),
        "layer_types": unparse_layer_types(config),
    }


def parse_sizes(fields: Fields, *, kv_heads: bool = True) -> dict[str, Any]:
    """Read what Llama and the families that follow it say alike.

    `kv_heads`: must the number of key/value heads be there? Without, it is that of the heads.
    """
    theta, scaling = parse_rope(fields)
    heads, d_model = fields.need("num_attention_heads", int), fields.need("hidden_size", int)
    return {
        "vocab_size": fields.need("vocab_size", int),
        "num_layers": fields.layers("num_hidden_layers"),
        "d_model": d_model,
        "d_mlp": fields.need("intermediate_size", int),
        "num_heads": heads,
        "num_kv_heads": fields.need("num_key_value_heads", int, None if kv_heads else heads),
        "head_dim": fields.need("head_dim", int, d_model // heads),
        "norm_eps": fields.need("rms_norm_eps", float),
        "rope_theta": theta,
        "rope_scaling": scaling,
        "max_positions": fields.need("max_position_embeddings", int),
        "tie_embeddings": fields.flag("tie_word_embeddings", False),
    }


def unparse_sizes(config: ModelConfig) -> dict[str, Any]:
    """Write what all families say alike."""
    return {
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
