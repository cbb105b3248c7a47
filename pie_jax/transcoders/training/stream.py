"""The model's activations at the tokens of a batch, streamed: computed and used once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pie_jax.models.transformer import Transformer
from pie_jax.transcoders.training.data import Feed


def stream(
    transformer: Transformer, feed: Feed
) -> tuple[Float[Array, "L N D"], Float[Array, "L N D"]]:
    """Run the model and return what a CLT reads and what it has to write, at the N places."""
    streams = jax.vmap(transformer.streams)(feed.tokens)
    resid_mid, mlp_out = (
        jnp.moveaxis(x, 1, 0).reshape(x.shape[1], -1, x.shape[-1])[:, feed.places]
        for x in (streams.resid_mid, streams.mlp_out)
    )
    return resid_mid, mlp_out
