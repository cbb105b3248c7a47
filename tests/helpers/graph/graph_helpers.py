"""The frozen model run forwards in NumPy, and tiny graphs to compare with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from prune_helpers import ARITHMETIC, tiny_model, tiny_transcoder

from pie_jax.graph.types import Graph
from pie_jax.models.gradient_rules import FULL
from pie_jax.models.layers import layer_of
from pie_jax.models.loader import LanguageModel
from pie_jax.models.turns import rotation
from pie_jax.transcoders.store import Transcoder


def tiny(
    folder: Path, family: str, *, skip: bool = False, **options: Any
) -> tuple[LanguageModel, Transcoder]:
    """Return a tiny model and a random transcoder with a bias, and with a skip where asked."""
    model = tiny_model(folder, **ARITHMETIC[family])
    transcoder = tiny_transcoder(model, features=12, **{"bias": -0.9, **options})
    rng = np.random.default_rng(5)
    layers, width = model.config.num_layers, model.config.d_model
    bias = rng.standard_normal((layers, width)).astype(np.float32)
    if not skip:
        return model, replace(transcoder, bias=bias)
    skips = (0.2 * rng.standard_normal((layers, width, width))).astype(np.float32)
    return model, replace(
        transcoder, bias=bias, skips=list(skips), config=replace(transcoder.config, has_skip=True)
    )


class FrozenRun:
    """One prompt run forwards in float64, attention patterns and norm scales kept from a run."""

    def __init__(self, model: LanguageModel, transcoder: Transcoder, tokens: np.ndarray):
        self.model, self.transcoder = model.transformer, transcoder
        self.config, self.length = model.config, len(tokens)
        streams = self.model.streams(jnp.asarray(tokens))
        self.blocks = [
            layer_of(self.model.blocks, jnp.int32(i)) for i in range(len(streams.mlp_out))
        ]
        self.embedded = np.asarray(self.model.embed(jnp.asarray(tokens)), np.float64)
        self.mlp_out = np.asarray(streams.mlp_out, np.float64)
        self.kept: dict[Any, np.ndarray] = {}
        self.keeping = True
        self.clean_inputs = np.zeros(self.mlp_out.shape)
        self.clean_inputs, self.clean_end = self.run()
        self.keeping = False

    def run(
        self, embedded: Any = 0.0, written: Any = 0.0, *, skips: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return what the transcoder reads [L, T, D] and the final norm's output [T, D], with
        something added to the embeddings [T, D] and to the MLPs' outputs [L, T, D]."""
        x = self.embedded + embedded
        written = np.broadcast_to(written, self.mlp_out.shape)
        inputs = []
        for index in range(self.config.num_layers):
            block = self.blocks[index]
            attention = block.attention
            normed = self.norm((index, "in"), block.attention_norm, x)
            value = np.einsum("td,dgk->tgk", normed, np.asarray(attention.value[...], np.float64))
            if attention.value_bias is not None:
                value = value + np.asarray(attention.value_bias[...])
            pattern = self.pattern(index, block, x)
            value = np.repeat(value, self.config.num_heads // self.config.num_kv_heads, axis=1)
            heads = np.einsum("hts,shk->thk", pattern, value)
            attended = np.einsum("thk,hkd->td", heads, np.asarray(attention.output[...]))
            if block.attention_post_norm is not None:
                attended = self.norm((index, "post"), block.attention_post_norm, attended)
            x = x + attended
            inputs.append(self.read(index, block.mlp_norm, x))
            mlp = self.mlp_out[index]
            if len(self.transcoder.skips) and not self.keeping:
                change = inputs[-1] - self.clean_inputs[index]
                mlp = mlp + change @ np.asarray(self.transcoder.skips[index]).T
            x = x + mlp + written[index]
        return np.array(inputs), self.norm("end", self.model.final_norm, x)

    def read(self, index: int, norm: Any, x: np.ndarray) -> np.ndarray:
        site = self.transcoder.config.input_site
        if site == "resid_mid":
            return x
        normed = self.norm((index, "mlp"), norm, x)
        if site == "mlp_in":
            return normed
        return normed / (np.asarray(norm.weight[...], np.float64) + norm.offset)

    def norm(self, key: Any, norm: Any, x: np.ndarray) -> np.ndarray:
        if self.keeping:
            self.kept[key] = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + norm.eps)
        return x * self.kept[key] * (np.asarray(norm.weight[...], np.float64) + norm.offset)

    def pattern(self, index: int, block: Any, x: np.ndarray) -> np.ndarray:
        if self.keeping:
            config = self.config
            slides = bool(config.sliding_layers) and config.sliding_layers[index]
            turns = rotation(config, jnp.arange(self.length)).of(jnp.bool_(slides))
            normed = block.attention_norm(jnp.asarray(x, jnp.float32), FULL)
            q, k, _ = block.attention.project(normed, turns, FULL)
            k = np.repeat(np.asarray(k), config.num_heads // config.num_kv_heads, axis=1)
            scores = np.einsum("thk,shk->hts", np.asarray(q), k) * config.scale
            if config.attention_softcap:
                scores = config.attention_softcap * np.tanh(scores / config.attention_softcap)
            distance = np.arange(self.length)[:, None] - np.arange(self.length)
            seen = distance >= 0
            if slides:
                seen &= distance < config.sliding_window
            weights = np.where(seen, np.exp(scores), 0.0)
            self.kept[index] = weights / weights.sum(-1, keepdims=True)
        return self.kept[index]


def doubled(run: FrozenRun, graph: Graph, vectors: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Return a graph's rows, one forward pass for each node that is doubled; `vectors` [K, D] are
    its targets', `errors` [L, T, D] what its errors write."""
    layers, length = graph.layers, len(graph.tokens)
    columns = []
    zero = np.zeros((layers, length, vectors.shape[1]))
    changes = []
    for layer, position, feature, a in zip(
        graph.layer, graph.position, graph.feature, graph.activation, strict=True
    ):
        written = zero.copy()
        rows = run.transcoder.decoder_maps[layer][feature]
        written[layer : layer + len(rows), position] = a * rows
        changes.append((0.0, written))
    for layer in range(layers):
        for position in range(length):
            written = zero.copy()
            written[layer, position] = errors[layer, position]
            changes.append((0.0, written))
    for position in range(length):
        added = np.zeros_like(zero[0])
        added[position] = run.embedded[position]
        changes.append((added, 0.0))
    for added, written in changes:
        inputs, end = run.run(added, written)
        inputs, end = inputs - run.clean_inputs, end - run.clean_end
        read = [
            run.transcoder.encoder_arrays[layer].weight[feature] @ inputs[layer, position]
            for layer, position, feature in zip(
                graph.layer, graph.position, graph.feature, strict=True
            )
        ]
        columns.append([*read, *(vectors @ end[-1])])
    rows = np.array(columns).T
    return np.concatenate([rows, np.zeros((len(rows), len(vectors)))], axis=1)
