"""Cross-layer transcoders as Flax modules: encode, decode, reconstruct.

Shapes: T positions, L layers, D model, F features a layer, W target layers of a feature.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from pie_jax.kernels import top_activations
from pie_jax.transcoders.config import TopK, TranscoderConfig

# BOS: its features are zeroed, as its activations are outliers.
ZEROED_POSITIONS = 1


class Encoder(nnx.Module):
    """One layer's encoder: weight [F, D], bias [F], and a threshold [F] for JumpReLU or `top`."""

    def __init__(
        self, weight: Array, bias: Array, threshold: Array | None = None, top: TopK | None = None
    ):
        self.weight = nnx.Param(weight)
        self.bias = nnx.Param(bias)
        self.threshold = None if threshold is None else nnx.Param(threshold)
        self.top = top

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
        """Return the activations of every position, [T, F]; negative ones only of a TopK without
        ReLU."""
        pre = self.preactivations(x)
        if self.top is not None:
            pre = jax.nn.relu(pre) if self.top.relu else pre
            values, index = jax.lax.top_k(pre, self.top.k)
            return jnp.zeros_like(pre).at[jnp.arange(len(pre))[:, None], index].set(values)
        if self.threshold is None:
            return jax.nn.relu(pre)
        return jnp.where(pre > self.threshold[...].astype(jnp.float32), pre, 0.0)

    def some(self, x: Float[Array, "T D"], features: Int[Array, " n"]) -> Float[Array, "T n"]:
        """Return the activations of some features of a TopK, which depend on all others."""
        assert self.top is not None
        weight, bias = self.weight[...], self.bias[...]
        values, index = top_activations(weight, bias, x[None], self.top.k, self.top.relu)
        same = index[0, :, :, None] == features
        return jnp.where(same, values[0, :, :, None], 0.0).sum(axis=1)


class CrossLayerTranscoder(nnx.Module):
    """A whole transcoder in memory, for training and for small ones; pruning reads rows instead.

    `encoders` L of them; `decoders` L arrays [F, W, D]; `bias` [L, D] added to each layer's sum;
    `skip` [L, D, D] (out, in), an affine skip from what a layer reads to what it writes.
    """

    def __init__(
        self,
        config: TranscoderConfig,
        encoders: Sequence[Encoder],
        decoders: Sequence[Array],
        bias: Float[Array, "L D"],
        skip: Float[Array, "L D D"] | None = None,
    ):
        self.config = config
        self.encoders = nnx.List(encoders)
        self.decoders = nnx.List([nnx.Param(decoder) for decoder in decoders])
        self.bias = nnx.Param(bias)
        self.skip = None if skip is None else nnx.Param(skip)

    def encode(self, inputs: Float[Array, "L T D"]) -> Float[Array, "L T F"]:
        """Return dense activations; for small transcoders only."""
        return jnp.stack([encoder(x) for encoder, x in zip(self.encoders, inputs, strict=True)])

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

    def skipped(self, inputs: Float[Array, "L T D"]) -> Float[Array, "L T D"]:
        """Return what the affine skip adds at every position, 0 without one."""
        if self.skip is None:
            return jnp.zeros(inputs.shape, jnp.float32)
        return skip_write(self.skip[...], inputs)

    def reconstruct(self, inputs: Float[Array, "L T D"]) -> Float[Array, "L T D"]:
        """Return the transcoder's estimate of the MLP outputs, the skip's part with it; BOS
        features are zeroed."""
        written = self.decode(zero_bos(self.encode(inputs)))
        return written if self.skip is None else written + self.skipped(inputs)


def skip_write(skip: Float[Array, "*L D D"], x: Float[Array, "*L T D"]) -> Float[Array, "*L T D"]:
    """Return what an affine skip [D, D] (out, in) writes for inputs [T, D], in float32."""
    return jnp.einsum(
        "...td,...ed->...te",
        x.astype(skip.dtype),
        skip,
        preferred_element_type=jnp.float32,
        precision=jax.lax.Precision.HIGHEST if skip.dtype == jnp.float32 else None,
    )


def zero_bos(activations: Float[Array, "*L T F"]) -> Float[Array, "*L T F"]:
    """Set the activations at the first position to zero."""
    keep = jnp.arange(activations.shape[-2]) >= ZEROED_POSITIONS
    return activations * keep[:, None]


def active_mask(
    length: Int[Array, ""], positions: int, zeroed: int | Int[Array, ""] = ZEROED_POSITIONS
) -> Array:
    """Return which positions [T] may hold occurrences: neither padding nor the first, BOS among
    them."""
    index = jnp.arange(positions)
    return (index >= zeroed) & (index < length)
