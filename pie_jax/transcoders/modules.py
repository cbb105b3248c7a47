"""Cross-layer transcoders as Flax modules: encode, decode, reconstruct.

Shapes: T positions, L layers, D model, F features a layer, W target layers of a feature.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from pie_jax.transcoders.config import TranscoderConfig

# BOS: its features are zeroed, as its activations are outliers.
ZEROED_POSITIONS = 1


class Encoder(nnx.Module):
    """One layer's encoder: weight [F, D], bias [F], and a threshold [F] for JumpReLU."""

    def __init__(self, weight: Array, bias: Array, threshold: Array | None = None):
        self.weight = nnx.Param(weight)
        self.bias = nnx.Param(bias)
        self.threshold = None if threshold is None else nnx.Param(threshold)

    def preactivations(self, x: Float[Array, "T D"]) -> Float[Array, "T F"]:
        """Return weight . x + bias in float32."""
        weight = self.weight[...]
        product = jnp.einsum(
            "td,fd->tf",
            x.astype(weight.dtype),
            weight,
            preferred_element_type=jnp.float32,
            precision=jax.lax.Precision.HIGHEST if weight.dtype == jnp.float32 else None,
        )
        return product + self.bias[...].astype(jnp.float32)

    def __call__(self, x: Float[Array, "T D"]) -> Float[Array, "T F"]:
        """Return the activations of every position, [T, F], never negative."""
        pre = self.preactivations(x)
        if self.threshold is None:
            return jax.nn.relu(pre)
        return jnp.where(pre > self.threshold[...].astype(jnp.float32), pre, 0.0)


class CrossLayerTranscoder(nnx.Module):
    """A whole transcoder in memory, for training and for small ones; pruning reads rows instead.

    `encoders` L of them; `decoders` L arrays [F, W, D]; `bias` [L, D] added to each layer's sum.
    """

    def __init__(
        self,
        config: TranscoderConfig,
        encoders: Sequence[Encoder],
        decoders: Sequence[Array],
        bias: Float[Array, "L D"],
    ):
        self.config = config
        self.encoders = nnx.List(encoders)
        self.decoders = nnx.List([nnx.Param(decoder) for decoder in decoders])
        self.bias = nnx.Param(bias)

    def encode(self, resid_mid: Float[Array, "L T D"]) -> Float[Array, "L T F"]:
        """Return dense activations; for small transcoders only."""
        return jnp.stack([encoder(x) for encoder, x in zip(self.encoders, resid_mid, strict=True)])

    def decode(self, activations: Float[Array, "L T F"]) -> Float[Array, "L T D"]:
        """Sum what every feature writes to every layer, with the decoder bias."""
        total = jnp.broadcast_to(
            self.bias[...][:, None].astype(jnp.float32),
            (self.config.num_layers, activations.shape[1], self.config.d_model),
        )
        for layer, decoder in enumerate(self.decoders):
            write = jnp.einsum(
                "tf,fwd->wtd",
                activations[layer].astype(decoder[...].dtype),
                decoder[...],
                preferred_element_type=jnp.float32,
            )
            total = total.at[layer : layer + write.shape[0]].add(write)
        return total

    def reconstruct(self, resid_mid: Float[Array, "L T D"]) -> Float[Array, "L T D"]:
        """Return the transcoder's estimate of the MLP outputs; BOS features are zeroed."""
        activations = self.encode(resid_mid)
        return self.decode(zero_bos(activations))


def zero_bos(activations: Float[Array, "*L T F"]) -> Float[Array, "*L T F"]:
    """Set the activations at the first position to zero."""
    keep = jnp.arange(activations.shape[-2]) >= ZEROED_POSITIONS
    return activations * keep[:, None]


def active_mask(length: Int[Array, ""], positions: int) -> Array:
    """Return which positions [T] may hold occurrences: neither BOS nor padding."""
    index = jnp.arange(positions)
    return (index >= ZEROED_POSITIONS) & (index < length)
