"""One layer after another, without a float32 copy of stacked bfloat16 weights.

XLA for CPUs slices bfloat16 by way of float32, and converts all layers ahead of the loop. So the
layers of bfloat16 weights are sliced as integers, and a gradient slices them again instead of
keeping what it sliced.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from pie_jax.kernels.slices import slice_rows

# What makes one layer's weights of all: cheap, and as large as the weights if kept.
_SLICING = ("bitcast_convert_type", "optimization_barrier", "dynamic_slice", "squeeze")


def scan_layers(
    layer: Callable[[Any, Any], tuple[Any, Any]], x: Any, blocks: Any, *rest: Any
) -> Any:
    """Return `jax.lax.scan` of `layer(x, (block, *rest of the layer))` over stacked blocks [L]."""
    stacked = jax.tree.leaves(blocks)
    if all(leaf.dtype != jnp.bfloat16 for leaf in stacked):
        return jax.lax.scan(layer, x, (blocks, *rest))

    def sliced(x: Any, inputs: Any) -> tuple[Any, Any]:
        index, *rest = inputs
        return layer(x, (layer_of(blocks, index), *rest))

    body = jax.checkpoint(sliced, prevent_cse=False, policy=_keep_all_but_weights)
    return jax.lax.scan(body, x, (jnp.arange(stacked[0].shape[0]), *rest))


def layer_of(blocks: Any, index: Int[Array, ""]) -> Any:
    """Return one layer of stacked blocks [L]."""

    def one(leaf: Array) -> Array:
        return slice_rows(leaf, index, 1)[0]

    return jax.tree.map(one, blocks)


def _keep_all_but_weights(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive.name not in _SLICING
