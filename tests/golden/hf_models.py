"""Tiny random models of every family made with transformers; needs the `parity` extra."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

VOCABULARY = 97
POSITIONS = 24
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
# Waves of heads of 8: 6 positions stay, 35 are interpolated, 199 and 1,117 are stretched.
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_CAPS = {"attn_logit_softcapping": 4.0, "final_logit_softcapping": 5.0}
_GEMMA3 = {
    "sliding_window": 5,
    "query_pre_attn_scalar": 12,
    "rope_theta": 1000.0,
    "rope_local_base_freq": 50.0,
}
_IMAGES = {
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "image_size": 8,
    "patch_size": 4,
}


@dataclass(frozen=True)
class Case:
    """A tiny model: its config, how it lies on disk, and how its config.json is spelled.

    `new_spelling`: `rope_parameters` and `dtype` as transformers 5 writes them, instead of
    `rope_theta`, `rope_scaling` and `torch_dtype`. `layer_types`: does the file name them?
    """

    name: str
    family: str
    config: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    sharded: bool = False
    new_spelling: bool = False
    layer_types: bool = False


def _heads(heads: int, kv_heads: int, size: int = 8) -> dict[str, int]:
    return {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": size}


CASES = (
    Case(
        "llama-mha-tied",
        "llama",
        {**_heads(4, 4), "num_hidden_layers": 2, "tie_word_embeddings": True},
    ),
    Case(
        "llama-gqa-untied-llama3",
        "llama",
        {
            **_heads(4, 2),
            "num_hidden_layers": 3,
            "rope_theta": 1000.0,
            "rope_scaling": _LLAMA3,
            "rms_norm_eps": 0.01,
            "tie_word_embeddings": False,
        },
        dtype="bfloat16",
        sharded=True,
    ),
    Case(
        "llama-mqa-tied-llama3",
        "llama",
        # Heads that do not add up to the hidden size.
        {
            **_heads(4, 1, 16),
            "num_hidden_layers": 3,
            "rope_theta": 1000.0,
            "rope_scaling": _LLAMA3,
            "tie_word_embeddings": True,
        },
        dtype="float16",
        new_spelling=True,
    ),
    Case(
        "gemma2-gqa-tied",
        "gemma2",
        {
            **_heads(4, 2),
            **_CAPS,
            "num_hidden_layers": 2,
            "sliding_window": 5,
            "query_pre_attn_scalar": 12,
        },
        layer_types=True,
    ),
    Case(
        "gemma2-mqa-tied",
        "gemma2",
        {
            **_heads(4, 1),
            **_CAPS,
            "num_hidden_layers": 4,
            "sliding_window": 7,
            "query_pre_attn_scalar": 8,
            "rms_norm_eps": 0.01,
        },
        dtype="bfloat16",
        sharded=True,
    ),
    Case(
        "gemma2-mha-untied",
        "gemma2",
        {
            **_heads(2, 2, 16),
            "attn_logit_softcapping": None,
            "final_logit_softcapping": 5.0,
            "num_hidden_layers": 3,
            "sliding_window": 3,
            "query_pre_attn_scalar": 16,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
            "tie_word_embeddings": False,
        },
        dtype="float16",
        new_spelling=True,
        layer_types=True,
    ),
    Case(
        "qwen3-gqa-tied",
        "qwen3",
        # Heads that do not add up to the hidden size, as Qwen3-0.6B's and 4B's.
        {
            **_heads(2, 1, 24),
            "num_hidden_layers": 2,
            "rope_theta": 1000.0,
            "rms_norm_eps": 0.01,
            "tie_word_embeddings": True,
        },
        dtype="bfloat16",
    ),
    Case(
        "qwen3-untied-late-window",
        "qwen3",
        {
            **_heads(4, 4),
            "num_hidden_layers": 3,
            "use_sliding_window": True,
            "sliding_window": 5,
            "max_window_layers": 1,
            "tie_word_embeddings": False,
        },
        dtype="bfloat16",
        new_spelling=True,
        layer_types=True,
    ),
    Case(
        "gemma3-gqa-tied",
        "gemma3_text",
        {
            **_heads(4, 2),
            **_GEMMA3,
            "num_hidden_layers": 3,
            "sliding_window_pattern": 3,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "rms_norm_eps": 0.01,
        },
        dtype="bfloat16",
    ),
    Case(
        "gemma3-mqa-multimodal",
        "gemma3",
        {
            **_heads(4, 1),
            **_GEMMA3,
            "num_hidden_layers": 2,
            "layer_types": ["full_attention", "sliding_attention"],
            "rope_scaling": {"rope_type": "linear", "factor": 4.0},
        },
        dtype="bfloat16",
        new_spelling=True,
        layer_types=True,
    ),
    Case(
        "qwen2-gqa-tied",
        "qwen2",
        {
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "num_hidden_layers": 2,
            "tie_word_embeddings": True,
        },
        dtype="bfloat16",
    ),
    Case(
        "mistral-gqa-untied-window",
        "mistral",
        {**_heads(4, 2), "num_hidden_layers": 2, "sliding_window": 5},
        dtype="bfloat16",
        new_spelling=True,
    ),
    Case(
        "gpt2-tied",
        "gpt2",
        {"n_layer": 2, "n_head": 4, "layer_norm_epsilon": 0.01},
        dtype="bfloat16",
    ),
    Case(
        "gpt2-untied-inner",
        "gpt2",
        {
            "n_layer": 3,
            "n_head": 2,
            "n_inner": 40,
            "scale_attn_weights": False,
            "tie_word_embeddings": False,
        },
        dtype="bfloat16",
        sharded=True,
    ),
)


_CLASSES: dict[str, tuple[Any, Any]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "gemma2": (Gemma2Config, Gemma2ForCausalLM),
    "gemma3": (Gemma3Config, Gemma3ForConditionalGeneration),
    "gemma3_text": (Gemma3TextConfig, Gemma3ForCausalLM),
    "gpt2": (GPT2Config, GPT2LMHeadModel),
    "mistral": (MistralConfig, MistralForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}


def build(case: Case, seed: int) -> PreTrainedModel:
    """Return a float32 model whose random weights the case's dtype holds exactly.

    Weights are large enough that norms, soft caps, windows and RoPE scaling all show in the
    logits.
    """
    settings = {**_SIZES, **case.config}
    if case.family == "gemma3":
        settings = {"text_config": settings, "vision_config": _IMAGES, "mm_tokens_per_image": 4}
    if case.family == "gpt2":
        sizes = {"vocab_size": VOCABULARY, "n_embd": 32, "n_positions": 30}
        settings = {**sizes, "bos_token_id": 1, "eos_token_id": 2, **case.config}
    config_class, model_class = _CLASSES[case.family]
    model = model_class(config_class(**settings, attn_implementation="eager"))
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            values = rng.standard_normal(parameter.shape).astype(np.float32)
            if "norm" in name or (".ln_" in name and name.endswith("weight")):
                values = 0.3 * values + (0.0 if "gemma" in case.family else 1.0)
            else:
                values = values * (
                    0.6
                    if any(part in name for part in ("embed", "lm_head", "wte", "wpe"))
                    else 0.25
                )
            on_disk = torch.from_numpy(values).to(getattr(torch, case.dtype))
            parameter.copy_(on_disk.to(torch.float32))
    return model.eval()


def random_tokens(seed: int, prompts: int = 2) -> np.ndarray:
    """Return random token ids, [prompts, T]."""
    return np.random.default_rng(seed).integers(0, VOCABULARY, (prompts, POSITIONS))


def observe(model: PreTrainedModel, tokens: np.ndarray) -> dict[str, np.ndarray]:
    """Return logits [P, T, V], and `resid_mid` and `mlp_out` [P, L, T, D] of P prompts."""
    kind = model.config.model_type
    resid_mid, mlp_out = [], []

    def keep_input(_module: Any, inputs: tuple, _output: Any) -> None:
        resid_mid.append(inputs[0].numpy())

    def keep_output(_module: Any, _inputs: tuple, output: torch.Tensor) -> None:
        mlp_out.append(output.numpy())

    hooks = []
    for layer in _layers(model):
        reads, writes = (layer.ln_2, layer.mlp) if kind == "gpt2" else _around_mlp(layer, kind)
        hooks.append(reads.register_forward_hook(keep_input))
        hooks.append(writes.register_forward_hook(keep_output))
    with torch.no_grad():
        logits = model(torch.from_numpy(tokens), use_cache=False).logits.numpy()
    for hook in hooks:
        hook.remove()
    return {
        "logits": logits,
        "resid_mid": np.stack(resid_mid, axis=1),
        "mlp_out": np.stack(mlp_out, axis=1),
    }


def _layers(model: PreTrainedModel) -> Any:
    if model.config.model_type == "gpt2":
        return model.transformer.h
    return getattr(model.model, "language_model", model.model).layers


def _around_mlp(layer: Any, kind: str) -> tuple[Any, Any]:
    """Return what reads resid_mid, and what writes the MLP's output."""
    if "gemma" in kind:
        return layer.pre_feedforward_layernorm, layer.post_feedforward_layernorm
    return layer.post_attention_layernorm, layer.mlp


def write(model: PreTrainedModel, case: Case, folder: Path) -> None:
    """Save a model as the case wants it on disk; `model` itself stays float32."""
    kind = getattr(torch, case.dtype)
    state = {name: value.to(kind) for name, value in model.state_dict().items()}
    shard = "40KB" if case.sharded else "1GB"
    model.save_pretrained(folder, state_dict=state, max_shard_size=shard, safe_serialization=True)
    (folder / "generation_config.json").unlink(missing_ok=True)
    path = folder / "config.json"
    path.write_text(json.dumps(respell(json.loads(path.read_text()), case), indent=1) + "\n")


def respell(raw: dict[str, Any], case: Case) -> dict[str, Any]:
    """Return a config.json in the old or the new spelling, whichever transformers wrote it."""
    if "text_config" in raw:
        text = respell(raw["text_config"], case)
        # As published: without what equals the defaults.
        usual = Gemma3TextConfig().to_dict()
        text = {key: value for key, value in text.items() if value != usual.get(key)}
        return {**raw, "text_config": {**text, "model_type": "gemma3_text"}}
    raw = {key: value for key, value in raw.items() if key not in ("dtype", "torch_dtype")}
    if raw["model_type"] == "gpt2":
        return {**raw, "torch_dtype": case.dtype}
    rope = {"rope_type": "default", **(raw.pop("rope_parameters", None) or {})}
    theta = raw.pop("rope_theta", None) or rope.pop("rope_theta")
    scaling = raw.pop("rope_scaling", None) or (rope if rope["rope_type"] != "default" else None)
    if not case.layer_types:
        raw.pop("layer_types", None)
    if case.new_spelling and "rope_local_base_freq" in raw:
        local = {"rope_type": "default", "rope_theta": raw.pop("rope_local_base_freq")}
        full = {**(scaling or rope), "rope_theta": theta}
        raw["rope_parameters"] = {"full_attention": full, "sliding_attention": local}
        return {**raw, "dtype": case.dtype}
    if case.new_spelling:
        raw["rope_parameters"] = {**(scaling or rope), "rope_theta": theta}
        return {**raw, "dtype": case.dtype}
    return {**raw, "rope_theta": theta, "rope_scaling": scaling, "torch_dtype": case.dtype}
