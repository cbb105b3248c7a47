"""The forward pass once more: NumPy in float64, position by position, from the file's tensors.

It shares nothing with pie_jax: it reads config.json and the checkpoint's own names.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import load_file


class SlowOutputs(NamedTuple):
    """Logits [T, V]; resid_mid and mlp_out [L, T, D]."""

    logits: np.ndarray
    resid_mid: np.ndarray
    mlp_out: np.ndarray


class SlowTransformer:
    """A Llama or Gemma-2 of one safetensors file in the old spelling of config.json."""

    def __init__(self, folder: Path):
        self.raw = json.loads((folder / "config.json").read_text())
        tensors: dict[str, np.ndarray] = {}
        for path in folder.glob("*.safetensors"):
            tensors.update(load_file(path))
        self.tensors = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
        self.gemma = self.raw["model_type"] == "gemma2"

    def __call__(self, tokens: list[int], mlp_delta: np.ndarray | None = None) -> SlowOutputs:
        """Run one prompt; `mlp_delta` [L, T, D] is added to what the MLPs write."""
        embedding = self.tensors["model.embed_tokens.weight"]
        stream = [embedding[token].copy() for token in tokens]
        if self.gemma:
            stream = [x * float(np.float32(math.sqrt(embedding.shape[1]))) for x in stream]
        resid_mid, mlp_out = [], []
        for layer in range(self.raw["num_hidden_layers"]):
            stream = self.attend(stream, layer)
            resid_mid.append(np.array(stream))
            written = [self.mlp(x, layer) for x in stream]
            mlp_out.append(np.array(written))
            for t, x in enumerate(written):
                stream[t] = stream[t] + x + (0 if mlp_delta is None else mlp_delta[layer, t])
        head = self.tensors.get("lm_head.weight", embedding)
        logits = np.array([head @ self.norm(x, "model.norm.weight") for x in stream])
        cap = self.raw.get("final_logit_softcapping")
        if cap:
            logits = cap * np.tanh(logits / cap)
        return SlowOutputs(logits, np.array(resid_mid), np.array(mlp_out))

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        weight = self.tensors[name] + (1 if self.gemma else 0)
        return x / self.size(x) * weight

    def size(self, x: np.ndarray) -> float:
        """Return what a norm divides by."""
        return math.sqrt((x @ x) / len(x) + self.raw["rms_norm_eps"])

    def pattern(self, scores: np.ndarray) -> np.ndarray:
        """Return how a head at one position attends."""
        weights = np.exp(scores - scores.max())
        return weights / weights.sum()

    def attend(self, stream: list[np.ndarray], layer: int) -> list[np.ndarray]:
        """Return the stream [T][D] after a layer's attention."""
        prefix = f"model.layers.{layer}."
        heads, groups = self.raw["num_attention_heads"], self.raw["num_key_value_heads"]
        size = self.raw["head_dim"]

        def project(which: str, x: np.ndarray) -> np.ndarray:
            return (self.tensors[f"{prefix}self_attn.{which}_proj.weight"] @ x).reshape(-1, size)

        inputs = [self.norm(x, prefix + "input_layernorm.weight") for x in stream]
        queries = [[self.rotate(q, t) for q in project("q", x)] for t, x in enumerate(inputs)]
        keys = [[self.rotate(k, t) for k in project("k", x)] for t, x in enumerate(inputs)]
        values = [project("v", x) for x in inputs]
        scale = (self.raw["query_pre_attn_scalar"] if self.gemma else size) ** -0.5
        cap = self.raw.get("attn_logit_softcapping")
        result = []
        for t, x in enumerate(stream):
            outputs = []
            for head in range(heads):
                group = head // (heads // groups)
                seen = range(self.first_seen(t, layer), t + 1)
                scores = np.array([queries[t][head] @ keys[s][group] * scale for s in seen])
                if cap:
                    scores = cap * np.tanh(scores / cap)
                weights = self.pattern(scores)
                parts = (w * values[s][group] for w, s in zip(weights, seen, strict=True))
                outputs.append(sum(parts))
            attended = self.tensors[prefix + "self_attn.o_proj.weight"] @ np.concatenate(outputs)
            if self.gemma:
                attended = self.norm(attended, prefix + "post_attention_layernorm.weight")
            result.append(x + attended)
        return result

    def first_seen(self, t: int, layer: int) -> int:
        """Return the first position that position t attends to."""
        if not self.gemma:
            return 0
        kinds = self.raw.get("layer_types")
        slides = layer % 2 == 0 if kinds is None else kinds[layer] == "sliding_attention"
        return max(0, t - self.raw["sliding_window"] + 1) if slides else 0

    def rotate(self, x: np.ndarray, t: int) -> np.ndarray:
        """Rotate the pairs (i, i + K / 2) of a head at position t."""
        half = len(x) // 2
        out = np.empty_like(x)
        for i in range(half):
            angle = t * self.frequency(i, len(x))
            out[i] = x[i] * math.cos(angle) - x[i + half] * math.sin(angle)
            out[i + half] = x[i + half] * math.cos(angle) + x[i] * math.sin(angle)
        return out

    def frequency(self, i: int, size: int) -> float:
        """Return the radians that pair i turns per position."""
        frequency = self.raw["rope_theta"] ** (-2 * i / size)
        scaling = self.raw.get("rope_scaling")
        if not scaling:
            return frequency
        waves = scaling["original_max_position_embeddings"] * frequency / (2 * math.pi)
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        if waves > high:
            return frequency
        if waves < low:
            return frequency / scaling["factor"]
        smooth = (waves - low) / (high - low)
        return (1 - smooth) * frequency / scaling["factor"] + smooth * frequency

    def mlp(self, x: np.ndarray, layer: int) -> np.ndarray:
        """Return what a layer's MLP writes, after its post-norm if it has one."""
        prefix = f"model.layers.{layer}."
        before = "pre_feedforward_layernorm" if self.gemma else "post_attention_layernorm"
        x = self.norm(x, f"{prefix}{before}.weight")
        gate = self.tensors[prefix + "mlp.gate_proj.weight"] @ x
        if self.gemma:
            inner = math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)
            gate = 0.5 * gate * (1 + np.tanh(inner))
        else:
            gate = gate / (1 + np.exp(-gate))
        hidden = gate * (self.tensors[prefix + "mlp.up_proj.weight"] @ x)
        written = self.tensors[prefix + "mlp.down_proj.weight"] @ hidden
        return (
            self.norm(written, prefix + "post_feedforward_layernorm.weight")
            if self.gemma
            else (written)
        )
