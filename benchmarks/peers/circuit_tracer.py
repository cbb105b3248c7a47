"""circuit-tracer on our weights: its TransformerLens model, filled without its hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from circuit_tracer import attribute
from circuit_tracer.replacement_model.replacement_model_transformerlens import (
    TransformerLensReplacementModel,
)
from circuit_tracer.transcoder.cross_layer_transcoder import load_clt
from torch import Tensor
from transformer_lens import HookedTransformerConfig
from transformers import AutoTokenizer

from benchmarks.peers.llama import Llama
from pie_jax.models.config import ModelConfig
from pie_jax.tasks.encode import EncodedPair

_CPU = torch.device("cpu")
_NORMS = {"ln1": "input_layernorm", "ln2": "post_attention_layernorm"}
GRAPH_NODES = 1000


class CircuitTracer:
    """A replacement model with the weights of folders `model` and `transcoder`, or of a transcoder
    that is open already; float32."""

    def __init__(self, folder: Path, transcoder: Any = None):
        llama = Llama(folder / "model")
        # Its own defaults: encoders in memory, decoders on disk.
        transcoder = transcoder or load_clt(
            str(folder / "transcoder"), device=_CPU, dtype=torch.float32, lazy_decoder=True
        )
        config = _config(llama.config)
        self.model: Any = TransformerLensReplacementModel.from_config(config, transcoder)
        state = self.model.state_dict()
        state.update(_state(llama))
        self.model.load_state_dict(state)
        # A graph asks which tokens are special.
        self.model.tokenizer = AutoTokenizer.from_pretrained(folder / "model")

    def logits(self, pair: EncodedPair) -> Tensor:
        """Return the logits of the clean prompt, [T, V]."""
        with torch.no_grad():
            return self.model(torch.tensor(pair.clean))[0]

    def components(self, pair: EncodedPair) -> Any:
        """Return the attribution components of the clean prompt: it never sees the other one."""
        return self.model.setup_attribution(torch.tensor(pair.clean))

    def removed(self, pair: EncodedPair, key: tuple[int, int, int], value: float) -> float:
        """Return the logit difference with one feature (layer, position, index) set to a value.

        Nothing is frozen, and no activations are asked for: the fastest of its interventions.
        """
        logits, _ = self.model.feature_intervention(
            torch.tensor(pair.clean), [(*key, value)],
            freeze_attention=False, return_activations=False,
        )  # fmt: skip
        return float(logits[0, -1, pair.target_id] - logits[0, -1, pair.distractor_id])

    def graph(
        self, tokens: Sequence[int], features: int | None = GRAPH_NODES, **options: Any
    ) -> Any:
        """Return a whole attribution graph of a prompt."""
        ids = torch.tensor(tokens)
        return attribute(ids, self.model, max_feature_nodes=features, verbose=False, **options)


def _config(config: ModelConfig) -> HookedTransformerConfig:
    scaling = config.rope_scaling
    stretched: dict[str, Any] = {} if scaling is None else {
        "use_NTK_by_parts_rope": True,
        "NTK_by_parts_factor": scaling.factor,
        "NTK_by_parts_low_freq_factor": scaling.low_freq_factor,
        "NTK_by_parts_high_freq_factor": scaling.high_freq_factor,
        "NTK_original_ctx_len": scaling.original_max_position_embeddings,
    }  # fmt: skip
    grouped = config.num_kv_heads != config.num_heads
    return HookedTransformerConfig(
        n_layers=config.num_layers,
        d_model=config.d_model,
        d_mlp=config.d_mlp,
        d_head=config.head_dim,
        n_heads=config.num_heads,
        n_key_value_heads=config.num_kv_heads if grouped else None,
        n_ctx=128,
        d_vocab=config.vocab_size,
        act_fn="silu",
        gated_mlp=True,
        normalization_type="RMS",
        final_rms=True,
        eps=config.norm_eps,
        positional_embedding_type="rotary",
        rotary_adjacent_pairs=False,
        rotary_dim=config.head_dim,
        rotary_base=config.rope_theta,
        model_name="made",
        device="cpu",
        dtype=torch.float32,
        **stretched,
    )


def _state(llama: Llama) -> dict[str, Tensor]:
    """Return the weights by TransformerLens' names, of a configured replacement model."""
    config, weights = llama.config, llama.weights
    embedding = weights["model.embed_tokens.weight"]
    state = {
        "embed.W_E": embedding,
        "ln_final.w": weights["model.norm.weight"],
        "unembed.old_unembed.W_U": weights.get("lm_head.weight", embedding).T,
    }
    shared = "_" if config.num_kv_heads != config.num_heads else ""
    for layer in range(config.num_layers):
        theirs, ours = f"blocks.{layer}", f"model.layers.{layer}"
        for name, norm in _NORMS.items():
            state[f"{theirs}.{name}.w"] = weights[f"{ours}.{norm}.weight"]
        for name, prefix in (("q", ""), ("k", shared), ("v", shared)):
            weight = weights[f"{ours}.self_attn.{name}_proj.weight"]
            heads = weight.view(-1, config.head_dim, config.d_model).transpose(1, 2)
            state[f"{theirs}.attn.{prefix}W_{name.upper()}"] = heads
        output = weights[f"{ours}.self_attn.o_proj.weight"].T
        state[f"{theirs}.attn.W_O"] = output.reshape(-1, config.head_dim, config.d_model)
        for name, weight in (("gate", "gate"), ("in", "up"), ("out", "down")):
            mlp = weights[f"{ours}.mlp.{weight}_proj.weight"].T
            state[f"{theirs}.mlp.old_mlp.W_{name}"] = mlp
    return state
