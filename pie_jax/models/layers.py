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
    layer: Callable[[Any, Any], tuple[Any, Any]],
    x: Any,
    blocks: Any,
    *rest: Any,
    first: int = 0,
    end: int | None = None,
) -> tuple[Any, Any]:
    """Return `jax.lax.scan` of `layer(x, (block, *rest of the layer))` over stacked blocks [L],
    those from `first` to before `end`."""
    stacked = jax.tree.leaves(blocks)
    count = stacked[0].shape[0]
    end = count if end is None else end
    whole = (first, end) == (0, count)
    if whole and all(leaf.dtype != jnp.bfloat16 for leaf in stacked):
        return jax.lax.scan(layer, x, (blocks, *rest))

    def sliced(x: Any, inputs: Any) -> tuple[Any, Any]:
        index, *rest = inputs
        return layer(x, (layer_of(blocks, index), *rest))

    body = jax.checkpoint(sliced, prevent_cse=False, policy=_keep_all_but_weights)
    of_layers = jax.tree.map(lambda array: array[first:end], (jnp.arange(count), *rest))
    return jax.lax.scan(body, x, of_layers)


def layer_of(blocks: Any, index: Int[Array, ""]) -> Any:
    """Return one layer of stacked blocks [L]."""

    def one(leaf: Array) -> Array:
        return slice_rows(leaf, index, 1)[0]

    return jax.tree.map(one, blocks)


def _keep_all_but_weights(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive.name not in _SLICING
