"""Runs that change only what comes after some position, beside a run that is recorded.

Attention is causal: what changes at a position leaves everything before it as it was. A changed
run computes the positions of a window alone and reads keys and values before it from the record.

Shapes: L layers, T positions of the prompt, W positions of a window, D model, G key/value heads,
K head size.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pie_jax.models.gradient_rules import FULL, GradientRule
from pie_jax.models.layers import layer_of, scan_layers
from pie_jax.models.transformer import Block, KeyValues, Transformer
from pie_jax.models.turns import Turns, rotation


class Record(NamedTuple):
    """What one run leaves for others: `entering` [L, T, D] the stream that enters each layer,
    `resid_mid` [L, T, D], `keys` and `values` [L, T, G, K], `residual` [T, D] after the last."""

    entering: Float[Array, "*B L T D"]
    resid_mid: Float[Array, "*B L T D"]
    keys: Float[Array, "*B L T G K"]
    values: Float[Array, "*B L T G K"]
    residual: Float[Array, "*B T D"]


class CachedPrefix(NamedTuple):
    """The last part of a recorded run, from position `start` on.

    `entering` [L, W, D] and `residual` [W, D] are the record's inside the window; `keys` and
    `values` [L, T, G, K] are all of the record's.
    """

    start: Int[Array, "*B"]
    entering: Float[Array, "*B L W D"]
    keys: Float[Array, "*B L T G K"]
    values: Float[Array, "*B L T G K"]
    residual: Float[Array, "*B W D"]


class Places(NamedTuple):
    """Where W positions stand: their `rotation`, and which recorded and own keys they see, once for
    layers that see everything and once for sliding ones."""

    turns: Turns
    recorded: tuple[Bool[Array, "W T"], Bool[Array, "W T"]]
    own: tuple[Bool[Array, "W W"], Bool[Array, "W W"]]


def record(model: Transformer, tokens: Int[Array, " T"]) -> Record:
    """Run every layer and keep what later runs need."""
    config, length = model.config, tokens.shape[0]
    places = _places(model, jnp.int32(0), length, 0)

    def layer(x, inputs):
        block, slides = inputs
        q, k, v = block.attention.project(
            block.attention_norm(x, FULL), places.turns.of(slides), FULL
        )
        own = KeyValues(k, v, _pick(places.own, slides))
        resid_mid = block.add_attention(x, block.attention.attend(q, [own], FULL), FULL)
        return resid_mid + block.mlp_output(resid_mid, FULL), (x, resid_mid, k, v)

    sliding = jnp.asarray(config.sliding_layers or (False,) * config.num_layers)
    residual, outputs = scan_layers(layer, model.embed(tokens), model.blocks, sliding)
    entering, resid_mid, keys, values = outputs
    return Record(entering, resid_mid, keys, values, residual)


def window(recorded: Record, start: Int[Array, ""], size: int) -> CachedPrefix:
    """Return the window of `size` positions from `start` on."""

    def inside(x: Array, axis: int) -> Array:
        return jax.lax.dynamic_slice_in_dim(x, start, size, axis)

    return CachedPrefix(
        start, inside(recorded.entering, 1), recorded.keys, recorded.values,
        inside(recorded.residual, 0),
    )  # fmt: skip


def run_window(
    model: Transformer,
    of: CachedPrefix,
    x: Float[Array, "W D"],
    mlp_delta: Float[Array, "L W D"] | None = None,
    rule: GradientRule = FULL,
) -> tuple[Float[Array, "W D"], Float[Array, "L W D"]]:
    """Run a window from the stream that enters the first layer, reading the record before it.

    Returns the last residual stream [W, D] and `resid_mid` [L, W, D]; equal to
    `Transformer.streams` inside the window where nothing changes before it.
    """
    config = model.config
    places = _places(model, of.start, x.shape[0], of.keys.shape[1])
    sliding = jnp.asarray(config.sliding_layers or (False,) * config.num_layers)

    def layer(x, inputs):
        block, slides, keys, values, delta = inputs
        x, resid_mid = window_layer(block, x, keys, values, places, slides, rule)
        return x if delta is None else x + delta, resid_mid

    return scan_layers(layer, x, model.blocks, sliding, of.keys, of.values, mlp_delta)


def run_changed(
    model: Transformer,
    of: CachedPrefix,
    mlp_delta: Float[Array, "L W D"],
    rule: GradientRule = FULL,
    last: Int[Array, ""] | None = None,
) -> Float[Array, "P D"]:
    """Return the last residual stream of a window's own run with something added to its MLPs.

    P = W; with `last`, only that position, and P = 1. The first layer runs as it did and is not
    run again. Equal to `run_window` from `of.entering[0]` on.
    """
    layers, size = mlp_delta.shape[:2]
    entering = of.entering[1] if layers > 1 else of.residual
    x = entering + mlp_delta[0]
    places = _places(model, of.start, size, of.keys.shape[1])
    sliding = jnp.asarray(model.config.sliding_layers or (False,) * layers)

    def layer(x, inputs):
        block, slides, keys, values, delta = inputs
        return window_layer(block, x, keys, values, places, slides, rule)[0] + delta, None

    full = layers if last is None else layers - 1
    if full > 1:
        each = (sliding, of.keys, of.values, mlp_delta)
        x, _ = scan_layers(layer, x, model.blocks, *each, first=1, end=full)
    if last is None:
        return x
    if layers == 1:
        return jax.lax.dynamic_slice_in_dim(x, last, 1)
    block = layer_of(model.blocks, jnp.int32(layers - 1))
    where = (of.keys[-1], of.values[-1], places, sliding[-1])
    x, _ = window_layer(block, x, *where, rule, last)
    return x + jax.lax.dynamic_slice_in_dim(mlp_delta[-1], last, 1)


def window_layer(
    block: Block,
    x: Float[Array, "W D"],
    keys: Float[Array, "T G K"],
    values: Float[Array, "T G K"],
    places: Places,
    slides: Bool[Array, ""],
    rule: GradientRule = FULL,
    last: Int[Array, ""] | None = None,
) -> tuple[Float[Array, "P D"], Float[Array, "P D"]]:
    """Run one layer over a window; return the stream after it and resid_mid.

    P = W; with `last`, only that position is computed beyond keys and values, and P = 1.
    """
    q, k, v = block.attention.project(block.attention_norm(x, rule), places.turns.of(slides), rule)
    masks = [_pick(places.recorded, slides), _pick(places.own, slides)]
    if last is not None:
        x, q, *masks = (jax.lax.dynamic_slice_in_dim(y, last, 1) for y in (x, q, *masks))
    sources = [KeyValues(keys, values, masks[0]), KeyValues(k, v, masks[1])]
    resid_mid = block.add_attention(x, block.attention.attend(q, sources, rule), rule)
    return resid_mid + block.mlp_output(resid_mid, rule), resid_mid


def places(model: Transformer, of: CachedPrefix, offset: Int[Array, ""], size: int) -> Places:
    """Return where the `size` positions of a window from `offset` on stand."""
    return _places(model, of.start + offset, size, of.keys.shape[1])


def _places(model: Transformer, start: Array, size: int, recorded: int) -> Places:
    config = model.config
    positions = start + jnp.arange(size)
    sources = jnp.arange(recorded)
    before = (sources < start) & jnp.ones((size, 1), bool)
    own = positions[:, None] >= positions[None, :]

    def near(seen: Array, at: Array) -> Array:
        if config.sliding_window is None:
            return seen
        return seen & (positions[:, None] - at[None, :] < config.sliding_window)

    turns = rotation(config, positions)
    return Places(turns, (before, near(before, sources)), (own, near(own, positions)))


def _pick(masks: tuple[Array, Array], slides: Array) -> Array:
    return jnp.where(slides, masks[1], masks[0])
