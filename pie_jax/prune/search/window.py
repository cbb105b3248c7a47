"""The part of a prompt that pruning can change, run beside the clean rest.

Attention is causal: before the first position where an occurrence changes, nothing ever changes.
Those positions are computed once; a changed run starts there and ends at the last real position.

Shapes: T positions, Q positions of the window, L layers, D model, G key/value heads, K head size,
V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pie_jax.models.config import rope_frequencies
from pie_jax.models.gradient_rules import FULL
from pie_jax.models.transformer import Transformer
from pie_jax.prune.metrics import Prompt


class Window(NamedTuple):
    """What a changed run of one prompt needs of its clean one.

    `start` first position; `last` [] place of the prompt's last position in the window; `x` [Q, D]
    embedded tokens; `keys`, `values` [L, T, G, K] clean ones; `clean` [V] log-probabilities.
    """

    start: Int[Array, "*B"]
    last: Int[Array, "*B"]
    x: Float[Array, "*B Q D"]
    keys: Float[Array, "*B L T G K"]
    values: Float[Array, "*B L T G K"]
    clean: Float[Array, "*B V"]


def open_window(model: Transformer, prompt: Prompt, first: Int[Array, ""], size: int) -> Window:
    """Run one clean prompt and keep what changed runs from position `first` on need."""
    length = prompt.tokens.shape[0]
    start = jnp.clip(first, 0, length - size)
    positions = jnp.arange(length)
    x, keys, values = _run(model, model.embed(prompt.tokens), positions, None, None, None)
    last = jax.lax.dynamic_slice_in_dim(x, prompt.length - 1, 1)
    embedded = jax.lax.dynamic_slice_in_dim(model.embed(prompt.tokens), start, size)
    clean = jax.nn.log_softmax(model.unembed(last)[0])
    return Window(start, prompt.length - 1 - start, embedded, keys, values, clean)


def window_logits(
    model: Transformer, window: Window, mlp_delta: Float[Array, "L Q D"]
) -> Float[Array, " V"]:
    """Return the logits at the last position with something added to the MLP outputs."""
    positions = window.start + jnp.arange(window.x.shape[0])
    x, _, _ = _run(model, window.x, positions, mlp_delta, window.keys, window.values)
    return model.unembed(jax.lax.dynamic_slice_in_dim(x, window.last, 1))[0]


def window_kl(
    model: Transformer, window: Window, mlp_delta: Float[Array, "L Q D"]
) -> Float[Array, ""]:
    """Return KL(clean || changed) at the last position, in nats."""
    changed = jax.nn.log_softmax(window_logits(model, window, mlp_delta))
    return jnp.sum(jnp.exp(window.clean) * (window.clean - changed))


def _run(
    model: Transformer,
    x: Array,
    positions: Array,
    mlp_delta: Array | None,
    keys: Array | None,
    values: Array | None,
) -> tuple[Array, Array, Array]:
    """Run positions one after another from `positions[0]` on, over cached keys and values."""
    config = model.config
    angles = positions.astype(jnp.float32)[:, None] * jnp.asarray(rope_frequencies(config))
    size = x.shape[0] if keys is None else keys.shape[1]
    distance = positions[:, None] - jnp.arange(size)[None, :]
    causal = distance >= 0
    local = causal if config.sliding_window is None else causal & (distance < config.sliding_window)
    sliding = jnp.asarray(config.sliding_layers or (False,) * config.num_layers)

    def layer(x, inputs):
        block, slides, delta, old_k, old_v = inputs
        q, k, v = block.attention.project(block.attention_norm(x, FULL), angles)
        if old_k is not None:
            at = (positions[0], 0, 0)
            k = jax.lax.dynamic_update_slice(old_k, k, at)
            v = jax.lax.dynamic_update_slice(old_v, v, at)
        mask = jnp.where(slides, local, causal)
        attended = block.attention.attend(q, k, v, mask, FULL)
        resid_mid = block.add_attention(x, attended, FULL)
        x = resid_mid + block.mlp_output(resid_mid, FULL)
        x = x if delta is None else x + delta
        return x, (k, v) if old_k is None else None

    x, kv = jax.lax.scan(layer, x, (model.blocks, sliding, mlp_delta, keys, values))
    return (x, *kv) if kv is not None else (x, keys, values)
