"""The compiled runs of interventions: each prompt's own run, and changed ones beside it.

Layer by layer, the unchanged run and a changed one go side by side, so that what is frozen is taken
from the former as soon as it is computed: no pattern of attention is kept.

Shapes: B prompts, S lists of changes, C features of a list, U features of all, K targets,
T positions, L layers, D model, V vocabulary.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pie_jax.devices.programs import program
from pie_jax.intervene.features import Features, Held, some_of
from pie_jax.models.gradient_rules import FROZEN, FULL
from pie_jax.models.layers import scan_layers
from pie_jax.models.transformer import (
    Block,
    KeyValues,
    Transformer,
    attention_masks,
    read_at,
    rotation,
)
from pie_jax.transcoders.modules import skip_write

FREEZES = ("direct", "attention", "nothing")


class Runs(NamedTuple):
    """What prompts and lists of changes lead to.

    `before` [B, P, V] and `after` [B, S, P, V] are logits at all positions (P = T) or the last
    (P = 1); `targets` [B, S, K] changes of targets at the last one; `own` [B, S, C, T] baselines of
    the changed features and `moved` by how much they were changed; `read` [B, 1 + S, L, T, D] what
    the transcoder reads in the unchanged and the changed runs, where it is asked for.
    """

    before: Any
    after: Any
    targets: Any
    own: Any
    moved: Any
    read: Any


class _Side(NamedTuple):
    """A run's residual stream after the last layer, and what the transcoder read in each."""

    residual: Any
    read: Any


@program("freeze", "site", "whole", "reads")
def run_changes(
    model: Transformer,
    tokens: Int[Array, "B T"],
    length: Int[Array, " B"],
    features: Features,
    skips: Float[Array, "L D D"] | None,
    index: Int[Array, "S C"],
    on: Bool[Array, "B S C T"],
    value: Float[Array, "B S C T"],
    scale: Float[Array, "B S C T"],
    targets: Int[Array, " K"],
    freeze: str,
    site: str,
    whole: bool,
    reads: bool,
) -> Runs:
    """Run every prompt with every list of changes, each with what `freeze` says held fixed.

    A list's features are those of `index` in `features`; `on`, `value` and `scale` as in `Held`.
    `skips` are the transcoder's, which direct effects pass through; None without.
    """

    def one(tokens: Array, length: Array, on: Array, value: Array, scale: Array) -> Runs:
        def changed(index: Array, on: Array, value: Array, scale: Array) -> Runs:
            held = Held(some_of(features, index), on, value, scale)
            clean, other, made = _side_by_side(model, tokens, held, skips, freeze, site, reads)
            last = length - 1
            before, after, shift = _logits(model, clean, other, last, freeze, whole)
            return Runs(before, after, shift[targets], *made, (clean.read, other.read))

        # The unchanged run does not depend on the list: it is computed once for all.
        axes = Runs(None, 0, 0, 0, 0, (None, 0))
        found = jax.vmap(changed, out_axes=axes)(index, on, value, scale)
        first, others = found.read
        return found._replace(read=jnp.concatenate([first[None], others]) if reads else None)

    return jax.vmap(one)(tokens, length, on, value, scale)


def _side_by_side(
    model: Transformer,
    tokens: Int[Array, " T"],
    held: Held,
    skips: Array | None,
    freeze: str,
    site: str,
    reads: bool,
) -> tuple[_Side, _Side, tuple[Array, Array]]:
    """Run a prompt unchanged and changed; return baselines and changes [C, T] as well.

    Of direct effects the second side is the difference in the residual stream, which is linear in
    the changes; else it is the changed stream itself.
    """
    config, length = model.config, tokens.shape[0]
    turns, positions = rotation(config, jnp.arange(length)), jnp.arange(length)
    causal, local = attention_masks(config, length)
    sliding = jnp.asarray(config.sliding_layers or (False,) * config.num_layers)
    run = _direct if freeze == "direct" else partial(_recomputed, same=freeze == "attention")

    def layer(carry: Any, inputs: Any) -> Any:
        x, y, made = carry
        block, slides, skip, index = inputs
        where = (turns.of(slides), jnp.where(slides, local, causal))

        def changes(unchanged: Array, own: Array | None, moved: Array | None = None) -> Any:
            """Return changes and their write, given what features read in the unchanged run and in
            their own. Of direct effects that is None: activations are the unchanged run's, and a
            skip passes on what has `moved`."""
            clean = held.features.activations(unchanged, index)
            here = clean if own is None else held.features.activations(own, index)
            found = (here, held.change(here, clean, positions))
            now = tuple(map(partial(held.in_layer, index), found, made))
            write = held.written(now[1], index)
            if skip is not None and moved is not None:
                write = write + skip_write(skip, moved)
            return now, write

        x, y, made, read = run(block, x, y, where, site, changes)
        return (x, y, made), read if reads else None

    start = model.embed(tokens)
    other = jnp.zeros_like(start) if freeze == "direct" else start
    each = (sliding, skips, jnp.arange(config.num_layers))
    first = (start, other, (held.start(length), held.start(length)))
    (x, y, made), read = scan_layers(layer, first, model.blocks, *each)
    return _Side(x, read[0] if reads else None), _Side(y, read[1] if reads else None), made


def _direct(
    block: Block,
    x: Float[Array, "T D"],
    dx: Float[Array, "T D"],
    where: tuple[Any, Array],
    site: str,
    changes: Any,
) -> tuple[Array, Array, Any, tuple[Array, Array]]:
    """Run one layer, and the difference `dx` through it with patterns, norm scales and the MLP's
    output constant: all that is left is linear, so the derivative is the difference."""

    def attended(x: Array) -> Array:
        return block.add_attention(
            x, block.attention(block.attention_norm(x, FROZEN), *where, FROZEN), FROZEN
        )

    def read(resid_mid: Array) -> Array:
        return read_at(site, block.mlp_norm, resid_mid, FROZEN)

    resid_mid, d_mid = jax.jvp(attended, (x,), (dx,))
    here, d_read = jax.jvp(read, (resid_mid,), (d_mid,))
    made, write = changes(here, None, d_read)
    x = resid_mid + block.mlp_output(resid_mid, FULL)
    return x, d_mid + write, made, (here, here + d_read)


def _recomputed(
    block: Block,
    x: Float[Array, "T D"],
    y: Float[Array, "T D"],
    where: tuple[Any, Array],
    site: str,
    changes: Any,
    same: bool,
) -> tuple[Array, Array, Any, tuple[Array, Array]]:
    """Run one layer of both runs; with the `same` patterns the changed one attends as the other."""
    turns, mask = where

    def projected(x: Array) -> tuple[Array, list[KeyValues]]:
        q, k, v = block.attention.project(block.attention_norm(x, FULL), turns, FULL)
        return q, [KeyValues(k, v, mask)]

    def attended(x: Array, pattern: Array, sources: list[KeyValues]) -> Array:
        return block.add_attention(x, block.attention.mix(pattern, sources), FULL)

    q, sources = projected(x)
    pattern = block.attention.pattern(q, sources, FULL)
    x_mid = attended(x, pattern, sources)
    q, sources = projected(y)
    if not same:
        pattern = block.attention.pattern(q, sources, FULL)
    y_mid = attended(y, pattern, sources)
    x_read, y_read = (read_at(site, block.mlp_norm, mid) for mid in (x_mid, y_mid))
    made, write = changes(x_read, y_read)
    x = x_mid + block.mlp_output(x_mid, FULL)
    y = y_mid + block.mlp_output(y_mid, FULL) + write
    return x, y, made, (x_read, y_read)


def _logits(
    model: Transformer, clean: _Side, other: _Side, last: Array, freeze: str, whole: bool
) -> tuple[Array, Array, Array]:
    """Return the logits of both runs [P, V], and by how much each at the last position moves
    against their mean [V], before a final softcap."""

    def kept(residual: Array) -> Array:
        return residual if whole else jax.lax.dynamic_slice_in_dim(residual, last, 1)

    x, y = kept(clean.residual), kept(other.residual)
    if freeze == "direct":
        before, moved = jax.jvp(lambda x: model.uncapped_logits(x, FROZEN), (x,), (y,))
        after = before + moved
    else:
        before, after = model.uncapped_logits(x), model.uncapped_logits(y)
        moved = after - before
    shift = moved[last if whole else 0]
    return model.softcapped(before), model.softcapped(after), shift - shift.mean()


@program("site")
def unchanged_activations(
    model: Transformer, tokens: Int[Array, "B T"], features: Features, site: str
) -> Float[Array, "B U T"]:
    """Return the features' activations on each prompt, which nothing has changed."""

    def one(tokens: Array) -> Array:
        inputs = model.transcoder_inputs(model.streams(tokens).resid_mid, site)

        def layer(found: Array, inputs: tuple[Array, Array]) -> tuple[Array, None]:
            x, index = inputs
            here = (features.layer == index)[:, None]
            return jnp.where(here, features.activations(x, index), found), None

        none = jnp.zeros((len(features.layer), len(tokens)), jnp.float32)
        return jax.lax.scan(layer, none, (inputs, jnp.arange(len(inputs))))[0]

    return jax.vmap(one)(tokens)
