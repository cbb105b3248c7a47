"""A transformer of shapes and dtypes alone."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from pie_jax.models.config import ModelConfig
from pie_jax.models.transformer import Transformer


def abstract_transformer(config: ModelConfig, dtype: DTypeLike = jnp.float32) -> Transformer:
    """Return the model with shapes and dtypes in place of arrays; nothing is allocated."""
    return nnx.eval_shape(lambda: Transformer(config, nnx.Rngs(0), dtype))


@cache
def parameter_count(config: ModelConfig) -> int:
    """Count the parameters that a config leads to, tied ones once."""
    leaves = jax.tree.leaves(nnx.state(abstract_transformer(config), nnx.Param))
    return sum(leaf.size for leaf in leaves)
