"""A transcoder in memory, as arrays.

Shapes: L layers, F features a layer, W target layers of a feature, D model, R decoder rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pie_jax.transcoders.modules import CrossLayerTranscoder


class Dictionary(NamedTuple):
    """Encoders `weight` [L, F, D], `bias` and `threshold` [L, F] (ReLU where None), and decoder
    rows `table` [R, D]: feature f of layer l begins at row `start[l] + f x width[l]` and writes
    to the `width[l]` layers from its own on."""

    weight: Float[Array, "L F D"]
    bias: Float[Array, "L F"]
    threshold: Float[Array, "L F"] | None
    table: Float[Array, "R D"]
    start: Int[Array, " L"]
    width: Int[Array, " L"]


def dictionary(
    weight: Float[Array, "L F D"],
    bias: Float[Array, "L F"],
    decoders: Sequence[Float[Array, "F W D"]],
    threshold: Float[Array, "L F"] | None = None,
) -> Dictionary:
    """Return a transcoder from its arrays: `decoders` one [F, W, D] a layer, where W is the number
    of layers written to: L - l in a cross-layer transcoder, 1 in a per-layer one.

    Raises `ValueError` where shapes do not match.
    """
    layers, features, d_model = weight.shape
    if len(decoders) != layers or bias.shape != (layers, features):
        raise ValueError(
            f"encoders {weight.shape} and {bias.shape} do not go with {len(decoders)} decoders"
        )
    if threshold is not None and threshold.shape != (layers, features):
        raise ValueError(f"thresholds {threshold.shape} do not go with encoders {weight.shape}")
    for layer, decoder in enumerate(decoders):
        most = layers - layer
        if decoder.shape not in {(features, width, d_model) for width in range(1, most + 1)}:
            raise ValueError(
                f"decoder {layer} is {decoder.shape}; it must be [{features}, 1 to {most}, "
                f"{d_model}]"
            )
    sizes = [decoder.shape[0] * decoder.shape[1] for decoder in decoders]
    starts = [sum(sizes[:layer]) for layer in range(layers)]
    return Dictionary(
        weight, bias, threshold,
        jnp.concatenate([decoder.reshape(-1, d_model) for decoder in decoders]),
        jnp.asarray(starts, jnp.int32),
        jnp.asarray([decoder.shape[1] for decoder in decoders], jnp.int32),
    )  # fmt: skip


def dictionary_of(clt: CrossLayerTranscoder) -> Dictionary:
    """Return a transcoder module (`pie_jax.load_transcoder(...).module()`) as arrays. Raises
    `ValueError` for TopK, whose features are not active each by itself."""
    if clt.config.top is not None:
        raise ValueError("a TopK transcoder's features depend on each other; use `pie_jax.prune`")
    encoders = list(clt.encoders)
    thresholds = [one.threshold[...] for one in encoders if one.threshold is not None]
    return dictionary(
        jnp.stack([one.weight[...] for one in encoders]),
        jnp.stack([one.bias[...] for one in encoders]),
        [one[...] for one in clt.decoders],
        jnp.stack(thresholds) if thresholds else None,
    )
