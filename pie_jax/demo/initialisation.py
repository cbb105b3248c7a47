"""Starting weights for training from scratch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from pie_jax.models.abstract import abstract_transformer
from pie_jax.models.config import ModelConfig
from pie_jax.models.transformer import Transformer

# Far above the usual 0.02: a token's own embedding has to stay visible beside what the first
# MLP writes, or attention finds nothing to copy and neither task is ever learned.
_EMBEDDING = 0.3
_WRITTEN = 0.3  # of what is usual for a block's writes


def initialise(config: ModelConfig, seed: int) -> Transformer:
    """Draw normal weights: 1 / sqrt(fan-in), less where a block writes to the residual stream."""
    graph, state = nnx.split(abstract_transformer(config))
    flat = nnx.to_flat_state(state)
    keys = jax.random.split(jax.random.key(seed), len(flat))
    filled = [
        (path, leaf.replace(_draw(path, leaf, config, key)))
        for (path, leaf), key in zip(flat, keys, strict=True)
    ]
    return nnx.merge(graph, nnx.from_flat_state(filled))


def _draw(path: tuple, leaf: nnx.Variable, config: ModelConfig, key: jax.Array) -> jax.Array:
    if path[-1] == "weight":  # of a norm
        return jnp.full(leaf.shape, 1.0 - config.norm_offset, leaf.dtype)
    return jax.random.normal(key, leaf.shape, leaf.dtype) * _deviation(path[-1], config)


def _deviation(name: str, config: ModelConfig) -> float:
    written = _WRITTEN * (2 * config.num_layers) ** -0.5  # two writes per layer add up
    if name in ("embedding", "unembedding"):
        return _EMBEDDING
    if name == "output":
        return written * (config.num_heads * config.head_dim) ** -0.5
    if name == "down":
        return written * config.d_mlp**-0.5
    return config.d_model**-0.5
