"""The model's activations at the tokens of a batch, streamed: computed and used once."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pie_jax.models.transformer import Transformer
from pie_jax.transcoders.training.data import Feed

# A token whose stream is so many times as long as the batch's median in some layer is a sink of
# attention, as BOS is: a thousandth of the tokens, and the larger part of all squares.
_SINK = 20.0


class Streamed(NamedTuple):
    """What a transcoder reads and has to write at N places, and which of these count."""

    inputs: Float[Array, "L N D"]
    targets: Float[Array, "L N D"]
    counts: Bool[Array, " N"]


def stream(transformer: Transformer, feed: Feed) -> Streamed:
    """Run the model; sinks of attention do not count."""
    streams = jax.vmap(transformer.streams)(feed.tokens)
    resid_mid, mlp_out = (
        jnp.moveaxis(x, 1, 0).reshape(x.shape[1], -1, x.shape[-1])[:, feed.places]
        for x in (streams.resid_mid, streams.mlp_out)
    )
    return Streamed(resid_mid, mlp_out, feed.counts & ~sinks(resid_mid, feed.counts))


def sinks(inputs: Float[Array, "L N D"], counts: Bool[Array, " N"]) -> Bool[Array, " N"]:
    """Tell which tokens are over `_SINK` times as long as the median of those that count."""
    lengths = jnp.linalg.norm(inputs, axis=-1)
    median = jnp.nanmedian(jnp.where(counts, lengths, jnp.nan), axis=1, keepdims=True)
    return (lengths > _SINK * median).any(axis=0)
