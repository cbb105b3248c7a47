"""A small Llama in PyTorch, one prompt at a time: what the peer loop runs.

Shapes: T positions, L layers, D model, V vocabulary, F features, W target layers. All float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional

from pie_jax.errors import InputError
from pie_jax.models.config import ModelConfig, rope_frequencies
from pie_jax.models.loader import read_config


class Run(NamedTuple):
    """Logits [T, V] and what a transcoder reads at every layer, [L, T, D]."""

    logits: Tensor
    resid_mid: Tensor


class Encoder(NamedTuple):
    """One layer's encoder: weight [F, D], bias [F], threshold [F] (0 for ReLU)."""

    weight: Tensor
    bias: Tensor
    threshold: Tensor


class Llama:
    """A Llama from a Hugging Face folder; raises `InputError` for any other family."""

    def __init__(self, folder: Path):
        self.config = read_config(folder / "config.json")
        if self.config.family != "llama":
            raise InputError(
                f"{folder}: the peers run Llama models, and this one is {self.config.family}; "
                "leave out --peers."
            )
        self.weights = read_tensors(folder / "model.safetensors")

    def __call__(
        self, tokens: Tensor, mlp_delta: Tensor | None = None, *, freeze: bool = False
    ) -> Run:
        """Run tokens [T], `mlp_delta` [L, T, D] added to the MLP outputs.

        `freeze` stops gradients at attention patterns, norm scales and MLPs.
        """
        embedding = self.weights["model.embed_tokens.weight"]
        x, turns = embedding[tokens], _turns(self.config, len(tokens))
        resid_mid = []
        for layer in range(self.config.num_layers):
            x = x + self._attention(self._norm(x, layer, "input_layernorm", freeze), layer, turns,
                                    freeze)  # fmt: skip
            resid_mid.append(x)
            written = self._mlp(self._norm(x, layer, "post_attention_layernorm", freeze), layer)
            written = written.detach() if freeze else written
            x = x + (written if mlp_delta is None else written + mlp_delta[layer])
        x = self._scaled(x, self.weights["model.norm.weight"], freeze)
        return Run(x @ self.weights.get("lm_head.weight", embedding).T, torch.stack(resid_mid))

    def _at(self, layer: int, name: str) -> Tensor:
        return self.weights[f"model.layers.{layer}.{name}.weight"]

    def _norm(self, x: Tensor, layer: int, name: str, freeze: bool) -> Tensor:
        return self._scaled(x, self._at(layer, name), freeze)

    def _scaled(self, x: Tensor, weight: Tensor, freeze: bool) -> Tensor:
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + self.config.norm_eps)
        return x * (scale.detach() if freeze else scale) * weight

    def _attention(
        self, x: Tensor, layer: int, turns: tuple[Tensor, Tensor], freeze: bool
    ) -> Tensor:
        config, length = self.config, len(x)
        query, key, value = (
            functional.linear(x, self._at(layer, f"self_attn.{name}_proj"))
            .view(length, -1, config.head_dim)
            .transpose(0, 1)
            for name in "qkv"
        )
        query, key = _rotate(query, turns), _rotate(key, turns)
        shared = config.num_heads // config.num_kv_heads
        key, value = (each.repeat_interleave(shared, 0) for each in (key, value))
        scores = query @ key.transpose(1, 2) * config.scale
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        pattern = scores.masked_fill(future, -torch.inf).softmax(-1)
        mixed = (pattern.detach() if freeze else pattern) @ value
        return functional.linear(
            mixed.transpose(0, 1).reshape(length, -1), self._at(layer, "self_attn.o_proj")
        )

    def _mlp(self, x: Tensor, layer: int) -> Tensor:
        gate, up = (functional.linear(x, self._at(layer, f"mlp.{n}_proj")) for n in ("gate", "up"))
        return functional.linear(functional.silu(gate) * up, self._at(layer, "mlp.down_proj"))


def read_transcoder(folder: Path, layers: int) -> tuple[list[Encoder], list[Tensor]]:
    """Return the encoders and the decoders [F, W, D] of a circuit-tracer folder, a layer each."""
    encoders, decoders = [], []
    for layer in range(layers):
        path = folder / f"W_enc_{layer}.safetensors"
        if not path.exists():
            raise InputError(
                f"{path}: not there; the peers read cross-layer transcoders in circuit-tracer's "
                "layout, so leave out --peers."
            )
        tensors = read_tensors(path)
        bias = tensors[f"b_enc_{layer}"]
        threshold = tensors.get(f"threshold_{layer}", torch.zeros_like(bias))
        encoders.append(Encoder(tensors[f"W_enc_{layer}"], bias, threshold))
        name = f"W_dec_{layer}"
        decoders.append(read_tensors(folder / f"{name}.safetensors")[name])
    return encoders, decoders


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return every tensor of a file in float32."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118


def _turns(config: ModelConfig, length: int) -> tuple[Tensor, Tensor]:
    angles = torch.arange(length)[:, None] * torch.from_numpy(rope_frequencies(config))
    return angles.cos(), angles.sin()


def _rotate(x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = turns
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
