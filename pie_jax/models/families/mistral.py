"""Mistral: Llama whose layers all slide, in files that say so."""

from __future__ import annotations

from typing import Any

from pie_jax.models.config import ModelConfig
from pie_jax.models.families.base import Family, Fields
from pie_jax.models.families.llama import TENSORS
from pie_jax.models.families.settings import parse_sizes, unparse_sizes

# Of transformers' MistralConfig, for files that do not name a window; null is none.
_WINDOW = 4096


def parse(fields: Fields) -> ModelConfig:
    """Read a Mistral config.json."""
    fields.expect("hidden_act", ("silu",))
    sizes = parse_sizes(fields)
    if fields.raw.get("sliding_window", _WINDOW) is None:
        return ModelConfig(family="mistral", **sizes)
    window = fields.need("sliding_window", int, _WINDOW)
    slides = (True,) * sizes["num_layers"]
    return ModelConfig(family="mistral", **sizes, sliding_window=window, sliding_layers=slides)


def unparse(config: ModelConfig) -> dict[str, Any]:
    """Write a Mistral config.json."""
    return {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "hidden_act": "silu",
        **unparse_sizes(config),
        "sliding_window": config.sliding_window,
    }


FAMILY = Family("mistral", "MistralForCausalLM", parse, unparse, TENSORS)
