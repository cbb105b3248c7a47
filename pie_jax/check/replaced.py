"""The model with every MLP replaced by the transcoder's reconstruction.

Shapes: B windows, T positions, L layers, N tokens of all windows, D model,
V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from pie_jax.check.fit import decode, encode, site_inputs, target_rows
from pie_jax.check.reading import Texts
from pie_jax.devices.programs import program
from pie_jax.models.loader import LanguageModel
from pie_jax.models.transformer import Transformer
from pie_jax.prune.engine.kl import kl_divergence
from pie_jax.transcoders.modules import skip_write
from pie_jax.transcoders.store import Transcoder


class Replaced(NamedTuple):
    """Means over positions, BOS left out: KL(model || replaced) in nats, and the share of positions
    where the likeliest token is the same."""

    kl: float
    top1: float
    tokens: int


def replaced(model: LanguageModel, transcoder: Transcoder, texts: Texts) -> Replaced:
    """Replace one MLP after another, each reading what those before it left.

    At BOS the MLPs stay: features are not defined there. Every layer is one more pass of the model,
    so `texts` should be few.
    """
    config, site = transcoder.config, transcoder.config.input_site
    tokens, counts = jnp.asarray(texts.tokens), texts.real & (np.arange(texts.real.shape[1]) > 0)
    flat = jnp.asarray(counts.reshape(-1))
    shape = (config.num_layers, *texts.tokens.shape, config.d_model)
    total = np.zeros(shape, np.float32) + transcoder.bias[:, None, None]
    change = np.zeros(shape, np.float32)
    for layer in range(config.num_layers):
        resid_mid, mlp_out = _layer(
            model.transformer, tokens, jnp.asarray(change.swapaxes(0, 1)), jnp.int32(layer)
        )
        x = site_inputs(
            model.transformer,
            jnp.broadcast_to(resid_mid, (config.num_layers, *resid_mid.shape)),
            site,
        )[layer]
        features = encode(transcoder.encoder(layer), x, flat)
        for step in range(config.targets(layer)):
            write = np.asarray(decode(features, target_rows(transcoder, layer, step)))
            total[layer + step] += write.reshape(shape[1:])
        if config.has_skip:
            total[layer] += np.asarray(skip_write(transcoder.skip(layer), x)).reshape(shape[1:])
        own = np.asarray(mlp_out).reshape(shape[1:])
        change[layer] = np.where(counts[:, :, None], total[layer] - own, 0.0)
    kl, same = _compare(
        model.transformer, tokens, jnp.asarray(change.swapaxes(0, 1)), jnp.asarray(counts)
    )
    number = int(counts.sum())
    return Replaced(float(kl) / number, float(same) / number, number)


@program()
def _layer(
    model: Transformer,
    tokens: Int[Array, "B T"],
    change: Float[Array, "B L T D"],
    layer: Int[Array, ""],
) -> tuple[Float[Array, "N D"], Float[Array, "N D"]]:
    def one(tokens: Array, change: Array) -> tuple[Array, Array]:
        streams = model.streams(tokens, change)
        return streams.resid_mid[layer], streams.mlp_out[layer]

    resid_mid, mlp_out = jax.vmap(one)(tokens, change)
    return resid_mid.reshape(-1, resid_mid.shape[-1]), mlp_out.reshape(-1, mlp_out.shape[-1])


@program()
def _compare(
    model: Transformer,
    tokens: Int[Array, "B T"],
    change: Float[Array, "B L T D"],
    counts: Bool[Array, "B T"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    def one(inputs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        tokens, change, counts = inputs
        clean, changed = model(tokens).logits, model(tokens, change).logits
        same = jnp.argmax(clean, -1) == jnp.argmax(changed, -1)
        kl = jnp.where(counts, kl_divergence(clean, changed), 0.0)
        return kl.sum(), (same & counts).sum().astype(jnp.float32)

    # One window's logits at a time: a vocabulary is wide.
    kl, same = jax.lax.map(one, (tokens, change, counts))
    return kl.sum(), same.sum()
