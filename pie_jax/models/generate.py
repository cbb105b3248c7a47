"""Greedy generation with a cache of keys and values, plain or steered through one feature.

Shapes: B batch, T prompt positions, S positions of the cache, L layers, D model, G key/value heads,
K head size, N new tokens.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pie_jax.models.gradient_rules import FULL
from pie_jax.models.layers import scan_layers
from pie_jax.models.transformer import KeyValues, Transformer, read_at
from pie_jax.models.turns import rotation
from pie_jax.programs import program


class Steering(NamedTuple):
    """A feature that is held at `target`: it reads layer `layer` and writes to the ones from there.

    `weight` [D], `bias` and `threshold` its encoder (a ReLU's threshold is 0); `rows` [L, D] its
    decoder rows by target layer, 0 where it does not write. BOS is left as it is, as everywhere.
    `own(x)`, where it is given, returns the feature's activation [T] in place of that: a TopK's
    depends on the other features of its layer.
    """

    layer: Int[Array, ""]
    weight: Float[Array, " D"]
    bias: Float[Array, ""]
    threshold: Float[Array, ""]
    rows: Float[Array, "L D"]
    target: Float[Array, ""]
    own: Any = None

    def change(self, x: Float[Array, "T D"], positions: Int[Array, " T"]) -> Float[Array, " T"]:
        """Return the change of activation [T] that brings the feature to `target` off BOS."""
        if self.own is None:
            pre = jnp.matmul(x, self.weight, precision=jax.lax.Precision.HIGHEST) + self.bias
            activation = jnp.where(pre > self.threshold, pre, 0.0)
        else:
            activation = self.own(x)
        return jnp.where(positions > 0, self.target - activation, 0.0)


class Cache(NamedTuple):
    """Keys and values of positions that were computed, [L, S, G, K] each in float32."""

    keys: Float[Array, "L S G K"]
    values: Float[Array, "L S G K"]


@program("new_tokens", "site")
def generate(
    model: Transformer,
    tokens: Int[Array, "B T"],
    length: Int[Array, " B"],
    steering: Steering | None = None,
    *,
    new_tokens: int,
    site: str = "resid_mid",
) -> Int[Array, "B N"]:
    """Return the likeliest continuation of every prompt, `new_tokens` ids each.

    `tokens` are padded on the right, `length` [B] counts BOS; `site` is what the steered feature
    reads (see `read_at`). What follows an end token is the caller's to cut off.
    """

    def one(tokens: Array, length: Array) -> Array:
        cache = empty_cache(model, tokens.shape[0] + new_tokens)
        residual, cache = extend(model, tokens, jnp.int32(0), cache, steering, site)
        first = _likeliest(model, residual[length - 1])

        def step(state: tuple[Array, Cache], offset: Array) -> tuple[tuple[Array, Cache], Array]:
            token, cache = state
            # The cache holds padding from `length` on, which new tokens replace before it is seen.
            residual, cache = extend(model, token[None], length + offset, cache, steering, site)
            return (_likeliest(model, residual[0]), cache), token

        steps = jnp.arange(new_tokens, dtype=length.dtype)
        return jax.lax.scan(step, (first, cache), steps)[1]

    return jax.vmap(one)(tokens, length)


def empty_cache(model: Transformer, size: int) -> Cache:
    """Return a cache for `size` positions."""
    config = model.config
    shape = (config.num_layers, size, config.num_kv_heads, config.head_dim)
    return Cache(jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32))


def extend(
    model: Transformer,
    tokens: Int[Array, " T"],
    start: Int[Array, ""],
    cache: Cache,
    steering: Steering | None,
    site: str,
) -> tuple[Float[Array, "T D"], Cache]:
    """Run tokens at positions `start` on; return the last residual stream and the longer cache."""
    config = model.config
    positions = start + jnp.arange(tokens.shape[0])
    turns = rotation(config, positions)
    distance = positions[:, None] - jnp.arange(cache.keys.shape[1])[None, :]
    causal = distance >= 0
    local = causal if config.sliding_window is None else causal & (distance < config.sliding_window)
    sliding = jnp.asarray(config.sliding_layers or (False,) * config.num_layers)

    def layer(carry, inputs):
        x, change = carry
        block, slides, keys, values, index = inputs
        mask = jnp.where(slides, local, causal)
        q, k, v = block.attention.project(block.attention_norm(x, FULL), turns.of(slides), FULL)
        keys = jax.lax.dynamic_update_slice(keys, k, (start, 0, 0))
        values = jax.lax.dynamic_update_slice(values, v, (start, 0, 0))
        attended = block.attention.attend(q, [KeyValues(keys, values, mask)], FULL)
        resid_mid = block.add_attention(x, attended, FULL)
        x = resid_mid + block.mlp_output(resid_mid, FULL)
        if steering is not None:
            read = read_at(site, block.mlp_norm, resid_mid)
            change = _change(steering, read, positions, index, change)
            x = x + change[:, None] * steering.rows[index]
        return (x, change), (keys, values)

    none = jnp.zeros(tokens.shape[0], jnp.float32)
    each = (sliding, *cache, jnp.arange(config.num_layers))
    entering = (model.embed(tokens, start), none)
    (x, _), (keys, values) = scan_layers(layer, entering, model.blocks, *each)
    return x, Cache(keys, values)


def _change(
    steering: Steering, read: Array, positions: Array, index: Array, change: Array
) -> Float[Array, " T"]:
    """Return the change of activation, computed in the feature's own layer and kept after it."""
    if steering.own is None:
        return jnp.where(index == steering.layer, steering.change(read, positions), change)
    # Encoding the whole layer: in that layer alone.
    return jax.lax.cond(
        index == steering.layer, lambda: steering.change(read, positions), lambda: change
    )


def _likeliest(model: Transformer, residual: Float[Array, " D"]) -> Int[Array, ""]:
    return jnp.argmax(model.unembed(residual[None])[0])
