"""Gemma 3's text model, alone or inside the multimodal one.

Norms over heads, two RoPE bases, five sliding layers to one that sees everything. Defaults are
those of transformers' Gemma3TextConfig: published files leave out what equals them.
"""

from __future__ import annotations

from typing import Any

from pie_jax.errors import InputError
from pie_jax.models.config import ModelConfig
from pie_jax.models.families.base import Family, Fields, Tensor, Wrapper, is_positive
from pie_jax.models.families.rope import parse_rope
from pie_jax.models.families.settings import parse_layer_types, unparse_layer_types, unparse_sizes
from pie_jax.models.families.tensors import common_tensors, head_norms, post_norms

_KINDS = ("full_attention", "sliding_attention")


def parse(fields: Fields) -> ModelConfig:
    """Read the config.json of a Gemma-3 text model, or its `text_config`."""
    fields.expect("attention_bias", (False,))
    fields.expect("hidden_activation", ("gelu_pytorch_tanh",))
    layers = fields.layers("num_hidden_layers", 26)
    pattern = fields.get("_sliding_window_pattern", 6)
    pattern = fields.need("sliding_window_pattern", int, pattern)
    window = None if "sliding_window" in fields.raw else 4096
    return ModelConfig(
        family="gemma3_text",
        vocab_size=fields.need("vocab_size", int, 262208),
        num_layers=layers,
        d_model=fields.need("hidden_size", int, 2304),
        d_mlp=fields.need("intermediate_size", int, 9216),
        num_heads=fields.need("num_attention_heads", int, 8),
        num_kv_heads=fields.need("num_key_value_heads", int, 4),
        head_dim=fields.need("head_dim", int, 256),
        norm_eps=fields.need("rms_norm_eps", float, 1e-6),
        max_positions=fields.need("max_position_embeddings", int, 131072),
        tie_embeddings=fields.flag("tie_word_embeddings", True),
        activation="gelu_tanh",
        norm_offset=1.0,
        qk_norm=True,
        post_norms=True,
        scale_embeddings=True,
        query_scale=fields.need("query_pre_attn_scalar", float, 256.0) ** -0.5,
        attention_softcap=fields.number_or_none("attn_logit_softcapping"),
        final_softcap=fields.number_or_none("final_logit_softcapping"),
        sliding_window=fields.need("sliding_window", int, window),
        sliding_layers=parse_layer_types(fields, layers, lambda layer: (layer + 1) % pattern != 0),
        **_ropes(fields),
    )


def _ropes(fields: Fields) -> dict[str, Any]:
    """Read the RoPE of both kinds of layers, in the old spelling (`rope_theta`, `rope_scaling`,
    `rope_local_base_freq`), the new one (`rope_parameters` by kind), or both where they agree."""
    new = fields.get("rope_parameters", {})
    if not isinstance(new, dict) or not new.keys() <= set(_KINDS):
        raise InputError(
            f"{fields.source}: `rope_parameters` must have {' and '.join(_KINDS)}, but it is "
            f"{new!r}."
        )
    theta, scaling = fields.get("rope_theta"), fields.get("rope_scaling")
    base = fields.get("rope_local_base_freq")
    if base is not None and not is_positive(base):
        raise InputError(
            f"{fields.source}: `rope_local_base_freq` must be a positive number, but it is "
            f"{base!r}."
        )

    def one(kind: str, default: float, theta: Any, scaling: Any) -> Any:
        raw = {"rope_theta": theta, "rope_scaling": scaling, "rope_parameters": new.get(kind)}
        return parse_rope(Fields(raw, f"{fields.source}, {kind}"), default)

    full, local = one(_KINDS[0], 1e6, theta, scaling), one(_KINDS[1], 1e4, base, None)
    if local[1] is not None:
        raise InputError(
            f"{fields.source}: `rope_parameters` scales sliding layers ({new[_KINDS[1]]}), which "
            "is not handled."
        )
    return {"rope_theta": full[0], "rope_scaling": full[1], "local_rope_theta": local[0]}


def unparse(config: ModelConfig) -> dict[str, Any]:
    """Write the config.json of a Gemma-3 text model."""
    assert config.query_scale is not None
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "attention_bias": False,
        "hidden_activation": "gelu_pytorch_tanh",
        **unparse_sizes(config),
        "rope_local_base_freq": config.local_rope_theta,
        "query_pre_attn_scalar": round(config.query_scale**-2),
        "attn_logit_softcapping": config.attention_softcap,
        "final_logit_softcapping": config.final_softcap,
        "sliding_window": config.sliding_window,
        "layer_types": unparse_layer_types(config),
    }


# How the multimodal files name the text model: the hub's, and transformers' since 4.52.
_PREFIXES = {
    "language_model.model.": "model.",
    "model.language_model.": "model.",
    "language_model.lm_head.": "lm_head.",
}
_IMAGES = ("vision_tower.", "multi_modal_projector.")


def rename(name: str) -> str | None:
    """Return a tensor's name in a file of the text model alone, None where it is about images."""
    if name.removeprefix("model.").startswith(_IMAGES):
        return None
    for prefix, own in _PREFIXES.items():
        if name.startswith(prefix):
            return own + name.removeprefix(prefix)
    return name


_WRAPPER = Wrapper(
    "gemma3",
    "Gemma3ForConditionalGeneration",
    frozenset(
        """
        boi_token_id boi_token_index eoi_token_id eoi_token_index image_token_id image_token_index
        mm_tokens_per_image vision_config
        """.split()
    ),
)
_TENSORS: dict[str, Tensor] = {**common_tensors(), **head_norms(), **post_norms()}

FAMILY = Family("gemma3_text", "Gemma3ForCausalLM", parse, unparse, _TENSORS, rename, _WRAPPER)
