"""Generation with a cache of keys and values, plain or steered through features.

Shapes: B batch, T prompt positions, S positions of the cache, L layers, D model, G key/value heads,
K head size, N new tokens, V vocabulary, C changed features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pie_jax.devices.programs import program
from pie_jax.models.gradient_rules import FULL
from pie_jax.models.layers import scan_layers
from pie_jax.models.transformer import KeyValues, Transformer, read_at
from pie_jax.models.turns import rotation


@runtime_checkable
class Steering(Protocol):
    """What holds features at other activations; it stays the same pytree throughout."""

    def start(self, positions: int) -> Array:
        """Return the state [C, T] of a run over so many positions before its first layer."""
        ...

    def step(self, read: Array, positions: Array, index: Array, state: Array) -> Any:
        """Return the state after layer `index`, and what is added to its MLP's output [T, D].

        `read` [T, D] is what features of the layer read at `positions` [T].
        """
        ...


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

    `tokens` are padded on the right, `length` [B] counts BOS; `site` is what steered
    features read (see `read_at`). What follows an end token is the
    caller's to cut off.
    """

    def likeliest(logits: Array, _: Array) -> Array:
        return jnp.argmax(logits)

    def one(tokens: Array, length: Array) -> Array:
        chosen = continued(model, tokens, length, steering, likeliest, new_tokens, site)
        return chosen[0]

    return jax.vmap(one)(tokens, length)


def continued(
    model: Transformer,
    tokens: Int[Array, " T"],
    length: Int[Array, ""],
    steering: Steering | None,
    choose: Callable[[Array, Array], Array],
    new_tokens: int,
    site: str,
) -> tuple[Int[Array, " N"], Float[Array, "N V"]]:
    """Return new tokens of one prompt, and the logits that each was chosen from.

    `choose(logits [V], i)` returns token i, the first of which is 0.
    """
    cache = empty_cache(model, tokens.shape[0] + new_tokens)
    residual, cache = extend(model, tokens, jnp.int32(0), cache, steering, site)
    logits = model.unembed(residual[length - 1][None])[0]

    def step(state: tuple[Array, Cache], index: Array) -> tuple[tuple[Array, Cache], Any]:
        logits, cache = state
        token = choose(logits, index)
        # The cache holds padding from `length` on, which new tokens replace before it is seen.
        at = (length + index).astype(jnp.int32)
        residual, cache = extend(model, token[None], at, cache, steering, site)
        return (model.unembed(residual)[0], cache), (token, logits)

    _, found = jax.lax.scan(step, (logits, cache), jnp.arange(new_tokens))
    return found


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
        x, state = carry
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
            state, write = steering.step(read, positions, index, state)
            x = x + write
        return (x, state), (keys, values)

    none = None if steering is None else steering.start(tokens.shape[0])
    each = (sliding, *cache, jnp.arange(config.num_layers))
    entering = (model.embed(tokens, start), none)
    (x, _), (keys, values) = scan_layers(layer, entering, model.blocks, *each)
    return x, Cache(keys, values)
