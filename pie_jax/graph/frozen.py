"""The frozen model, run backwards from many encoder rows or logit directions side by side.

Attention patterns, the scales of norms and the MLPs' outputs are constants; a learned skip is not.
What is left is linear: a row of a graph is one cotangent that goes down through the layers, and at
each of them is multiplied with what is written there.

Shapes: M prompts side by side, T positions, L layers, D model, B targets of each prompt, R table
rows; G chunks of C features are multiplied side by side, P such groups one after another.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pie_jax.devices.programs import program
from pie_jax.kernels import Tiles, Writes, tiled_write
from pie_jax.kernels.slices import slice_rows, take_rows
from pie_jax.models.gradient_rules import FROZEN
from pie_jax.models.layers import layer_of
from pie_jax.models.transformer import Transformer, attention_masks, read_at, rotation
from pie_jax.transcoders.modules import active_mask, skip_write


class Point(NamedTuple):
    """The run at which the model is linearised: `embedded` [T, D] the tokens' rows, `entering`
    [L, T, D] the stream that enters each layer, `resid_mid` and `mlp_out` [L, T, D], `residual`
    [T, D] after the last layer, `inputs` [L, T, D] what the transcoder reads, and `probability` [V]
    of the next token; of several prompts [M, ...] each."""

    embedded: Float[Array, "*M T D"]
    entering: Float[Array, "*M L T D"]
    resid_mid: Float[Array, "*M L T D"]
    mlp_out: Float[Array, "*M L T D"]
    residual: Float[Array, "*M T D"]
    inputs: Float[Array, "*M L T D"]
    probability: Float[Array, "*M V"]


class Sources(NamedTuple):
    """Features that write, in chunks of one position each: `writes` and `activation` [P, G C] and
    the chunks' `position` [P, G]; slots of no feature write to no layer, and there are none from
    the group `filled` on."""

    writes: Writes
    activation: Float[Array, "*M P GC"]
    position: Int[Array, "*M P G"]
    filled: Int[Array, ""]

    def product(
        self,
        table: Float[Array, "R D"],
        layer: Int[Array, ""],
        gradient: Float[Array, "B T D"],
        before: Float[Array, "P G B C"],
    ) -> Float[Array, "P G B C"]:
        """Return the sum of `before` and <what is written to a layer, gradient> of every slot."""
        chunks = self.position.shape[1]

        def add(index: Array, total: Array) -> Array:
            writes = jax.tree.map(lambda array: array[index], self.writes)
            rows = writes.rows(table, layer) * self.activation[index][:, None]
            rows = rows.reshape(chunks, -1, rows.shape[-1])
            here = _product("bgd,gcd->gbc", gradient[:, self.position[index]], rows)
            return total.at[index].add(here)

        return jax.lax.fori_loop(0, self.filled, add, before)


class Injected(NamedTuple):
    """What targets read: `vector` [B, D] at the transcoder's input of `layer` and `position` [B],
    or for layer L at the output of the final norm; nothing for layer -1."""

    layer: Int[Array, "*M B"]
    position: Int[Array, "*M B"]
    vector: Float[Array, "*M B D"]


class Effects(NamedTuple):
    """Effects on a batch of targets: of features by slot, of errors, and of token embeddings."""

    features: Float[Array, "*M B PGC"]
    errors: Float[Array, "*M B L T"]
    tokens: Float[Array, "*M B T"]


@program("site")
def points(
    model: Transformer, tokens: Int[Array, "M T"], length: Int[Array, " M"], site: str
) -> Point:
    """Run prompts of `length` tokens each, padded to T."""
    return jax.vmap(lambda row, real: _point(model, row, real, site))(tokens, length)


def _point(model: Transformer, tokens: Array, length: Array, site: str) -> Point:
    streams = model.streams(tokens)
    after = streams.resid_mid + streams.mlp_out
    embedded = model.embed(tokens)
    last = jax.lax.dynamic_slice_in_dim(streams.residual, length - 1, 1)
    return Point(
        model.token_rows(tokens),
        jnp.concatenate([embedded[None], after[:-1]]),
        streams.resid_mid,
        streams.mlp_out,
        streams.residual,
        model.transcoder_inputs(streams.resid_mid, site),
        jax.nn.softmax(model.unembed(last)[0]),
    )


@program()
def errors(
    at: Point,
    length: Int[Array, " M"],
    table: Float[Array, "R D"],
    tiles: Tiles,
    writes: Writes,
    activation: Float[Array, "M N"],
    bias: Float[Array, "L D"],
    skip: Float[Array, "L D D"] | None,
) -> Float[Array, "M L T D"]:
    """Return the MLPs' outputs minus their reconstruction, 0 at BOS and in padding."""

    def one(at: Point, length: Array, writes: Writes, activation: Array) -> Array:
        written = tiled_write(table, tiles, writes, activation, *at.mlp_out.shape[:2])
        written = written + bias[:, None].astype(jnp.float32)
        if skip is not None:
            written = written + skip_write(skip, at.inputs)
        real = active_mask(length, at.mlp_out.shape[1])
        return jnp.where(real[:, None], at.mlp_out - written, 0.0)

    return jax.vmap(one)(at, length, writes, activation)


@program()
def logit_vectors(model: Transformer, tokens: Int[Array, " I"]) -> Float[Array, "I D"]:
    """Return the unembedding of some tokens minus its mean over the vocabulary."""
    rows = model.unembedding_rows()
    mean = jnp.mean(rows, axis=0, dtype=jnp.float32)
    return take_rows(rows, tokens).astype(jnp.float32) - mean


@program("site")
def effects(
    model: Transformer,
    at: Point,
    injected: Injected,
    table: Float[Array, "R D"],
    sources: Sources,
    error: Float[Array, "M L T D"],
    skip: Float[Array, "L D D"] | None,
    site: str,
) -> Effects:
    """Return every source's effect on what a batch of each prompt's targets reads.

    Layers above the highest target of all are not run.
    """
    top = jnp.minimum(injected.layer.max(), at.resid_mid.shape[1] - 1)

    def one(at: Point, injected: Injected, sources: Sources, error: Array) -> Effects:
        return _effects(model, at, injected, table, sources, error, skip, site, top)

    # How many groups are filled is one number for all, or each step would be done and dropped.
    axes: Any = Sources(0, 0, 0, None)  # type: ignore[arg-type]
    return jax.vmap(one, (0, 0, axes, 0))(at, injected, sources, error)


def _effects(
    model: Transformer,
    at: Point,
    injected: Injected,
    table: Float[Array, "R D"],
    sources: Sources,
    error: Float[Array, "L T D"],
    skip: Float[Array, "L D D"] | None,
    site: str,
    top: Int[Array, ""],
) -> Effects:
    layers, length, _ = at.resid_mid.shape
    batch, groups = len(injected.layer), sources.position.shape
    config = model.config
    turns = rotation(config, jnp.arange(length))
    causal, local = attention_masks(config, length)
    sliding = jnp.asarray(config.sliding_layers or (False,) * layers)

    def inject(layer: Any, streams: Array, read: Any, cotangent: Array) -> Array:
        """Add the vectors of the targets that `read` the streams [T, D] of a layer."""
        _, pull = jax.vjp(read, streams[injected.position])
        here = injected.layer == layer
        (vector,) = pull(jnp.where(here[:, None], injected.vector, 0.0))
        return cotangent.at[jnp.arange(batch), injected.position].add(vector)

    def down(step: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        cotangent, features, by_error = carry
        layer = top - step
        block, slides = layer_of(model.blocks, layer), sliding[layer]
        mask = jnp.where(slides, local, causal)
        features = sources.product(table, layer, cotangent, features)
        by_error = by_error.at[layer].set(_product("btd,td->bt", cotangent, error[layer]))

        def read(resid_mid: Array) -> Array:
            return read_at(site, block.mlp_norm, resid_mid, FROZEN)

        def attend(x: Array) -> Array:
            attended = block.attention(
                block.attention_norm(x, FROZEN), turns.of(slides), mask, FROZEN
            )
            return block.add_attention(x, attended, FROZEN)

        if skip is not None:
            through = jax.vjp(
                lambda x: skip_write(slice_rows(skip, layer, 1)[0], read(x)), at.resid_mid[layer]
            )[1]
            cotangent = cotangent + jax.vmap(lambda y: through(y)[0])(cotangent)
        cotangent = inject(layer, at.resid_mid[layer], read, cotangent)
        pull = jax.vjp(attend, at.entering[layer])[1]
        return jax.vmap(lambda y: pull(y)[0])(cotangent), features, by_error

    start = inject(
        layers,
        at.residual,
        lambda x: model.final_norm(x, FROZEN),
        jnp.zeros((batch, *at.residual.shape), jnp.float32),
    )
    size = sources.activation.shape[1] // groups[1]
    carry = (
        start,
        jnp.zeros((*groups, batch, size), jnp.float32),
        jnp.zeros((layers, batch, length), jnp.float32),
    )
    cotangent, features, by_error = jax.lax.fori_loop(0, top + 1, down, carry)
    return Effects(
        features.transpose(2, 0, 1, 3).reshape(batch, -1),
        by_error.swapaxes(0, 1),
        _product("btd,td->bt", cotangent, at.embedded),
    )


def _product(spec: str, x: Array, y: Array) -> Array:
    return jnp.einsum(
        spec, x, y, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32
    )
