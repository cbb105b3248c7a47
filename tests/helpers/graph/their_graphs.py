"""Tiny weights that circuit-tracer opens too, and a Gemma-2 in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from circuit_tracer import attribute
from circuit_tracer.replacement_model.replacement_model_transformerlens import (
    TransformerLensReplacementModel,
)
from circuit_tracer.transcoder.cross_layer_transcoder import load_clt
from transformer_lens import HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions.gemma import convert_gemma_weights
from transformers import AutoModelForCausalLM, AutoTokenizer

import pie_jax
from benchmarks.parts.random_weights import (
    SHAPES,
    input_scale,
    make_model,
    make_pairs,
    make_transcoder,
)
from benchmarks.peers.circuit_tracer import CircuitTracer
from pie_jax.models.loader import LanguageModel
from pie_jax.transcoders.store import Transcoder

PROMPTS = [pair.clean for pair in make_pairs(SHAPES["tiny"], 3)]

Both = tuple[LanguageModel, Transcoder, CircuitTracer]


@pytest.fixture(scope="module", name="folder")
def made_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a model and a transcoder."""
    folder, shape = tmp_path_factory.mktemp("made"), SHAPES["tiny"]
    make_model(shape, folder / "model")
    make_transcoder(shape, folder / "transcoder", input_scale(folder / "model", shape))
    return folder


@pytest.fixture(scope="module", name="across")
def across_layers(folder: Path) -> Both:
    """Both programs with the weights of `folder`."""
    model = pie_jax.load_model(folder / "model")
    return model, pie_jax.load_transcoder(folder / "transcoder"), CircuitTracer(folder)


class TheirGemma:
    """circuit-tracer on a Gemma-2 of Hugging Face's format, through TransformerLens' own conversion
    of its weights; float32."""

    def __init__(self, folder: Path, transcoder: Path):
        cpu = torch.device("cpu")
        hf = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
        one = hf.config
        config = HookedTransformerConfig(
            n_layers=one.num_hidden_layers, d_model=one.hidden_size, d_mlp=one.intermediate_size,
            d_head=one.head_dim, n_heads=one.num_attention_heads,
            n_key_value_heads=one.num_key_value_heads, n_ctx=one.max_position_embeddings,
            d_vocab=one.vocab_size, act_fn="gelu_pytorch_tanh", gated_mlp=True,
            normalization_type="RMS", final_rms=True, eps=one.rms_norm_eps,
            use_normalization_before_and_after=True, positional_embedding_type="rotary",
            rotary_adjacent_pairs=False, rotary_dim=one.head_dim, rotary_base=int(one.rope_theta),
            use_attn_scale=True, attn_scale=one.query_pre_attn_scalar**0.5,
            attn_scores_soft_cap=one.attn_logit_softcapping,
            output_logits_soft_cap=one.final_logit_softcapping, use_local_attn=True,
            window_size=one.sliding_window,
            attn_types=["local" if kind.startswith("sliding") else "global"
                        for kind in one.layer_types],
            model_name="made", device="cpu", dtype=torch.float32,
        )  # fmt: skip
        clt = load_clt(str(transcoder), device=cpu, dtype=torch.float32, lazy_decoder=True)
        self.model: Any = TransformerLensReplacementModel.from_config(config, clt)
        # It wraps these two, which changes their names.
        state = {
            name.replace(".mlp.", ".mlp.old_mlp.").replace("unembed.", "unembed.old_unembed."): x
            for name, x in convert_gemma_weights(hf, config).items()
        }
        own = self.model.state_dict()
        assert set(state) <= set(own)
        self.model.load_state_dict({**own, **state})
        self.model.tokenizer = AutoTokenizer.from_pretrained(folder)

    def graph(self, tokens: Sequence[int], features: int | None) -> Any:
        """Return a whole attribution graph of a prompt."""
        return attribute(
            torch.tensor(tokens), self.model, max_feature_nodes=features, verbose=False
        )
