"""A decoder-only transformer for one prompt, with its layers stacked and scanned.

Shapes: T positions, L layers, D model, M MLP, H heads, G key/value heads, K head size,
V vocabulary. Batches come from `jax.vmap` outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from pie_jax.kernels.slices import take_rows
from pie_jax.models.config import ModelConfig
from pie_jax.models.gradient_rules import FULL, GradientRule
from pie_jax.models.layers import scan_layers
from pie_jax.models.turns import rotate, rotation

_INIT = nnx.initializers.normal(0.02)


class Streams(NamedTuple):
    """What one pass computes before the unembedding.

    `residual` [T, D] after the last layer; `resid_mid` [L, T, D] the stream between attention
    and MLP (the input of a CLT); `mlp_out` [L, T, D] each MLP's own output, after its
    post-norm if it has one and without `mlp_delta`. All float32.
    """

    residual: Float[Array, "T D"]
    resid_mid: Float[Array, "L T D"]
    mlp_out: Float[Array, "L T D"]


class Outputs(NamedTuple):
    """Logits [T, V] in float32 and the streams that led to them."""

    logits: Float[Array, "T V"]
    resid_mid: Float[Array, "L T D"]
    mlp_out: Float[Array, "L T D"]


class Norm(nnx.Module):
    """RMS norm in float32, or LayerNorm where norms are centred; the weight counts from `offset`.

    Under every gradient rule centring stays linear: only the scale may be held constant.
    """

    def __init__(
        self, config: ModelConfig, dtype: DTypeLike = jnp.float32, size: int | None = None
    ):
        shape = (config.d_model if size is None else size,)
        self.weight = nnx.Param(jnp.full(shape, 1.0 - config.norm_offset, dtype))
        self.bias = _zeros(shape, dtype) if config.centred_norms else None
        self.offset, self.eps = config.norm_offset, config.norm_eps

    def __call__(self, x: Float[Array, "*T D"], rule: GradientRule) -> Float[Array, "*T D"]:
        out = self.weighted(self.normalized(x, rule))
        return out if self.bias is None else out + self.bias[...].astype(jnp.float32)

    def normalized(self, x: Float[Array, "*T D"], rule: GradientRule) -> Float[Array, "*T D"]:
        """Return the stream, centred where asked, divided by its size: before weight and bias."""
        x = self.centred(x)
        scale = jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.eps)
        return x * rule.norm_scale(scale)

    def centred(self, x: Float[Array, "*T D"]) -> Float[Array, "*T D"]:
        """Return the stream without its mean where norms are centred, else as it is."""
        return x if self.bias is None else x - jnp.mean(x, axis=-1, keepdims=True)

    def weighted(self, x: Float[Array, "*T D"]) -> Float[Array, "*T D"]:
        """Return what is normalized times the weight."""
        return x * (self.weight[...].astype(jnp.float32) + self.offset)


class KeyValues(NamedTuple):
    """Keys and values at S positions, and which of them T queries see."""

    keys: Float[Array, "S G K"]
    values: Float[Array, "S G K"]
    mask: Bool[Array, "T S"]


class Attention(nnx.Module):
    """Grouped-query attention, its positions rotary unless they are learned."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32):
        d, k = config.d_model, config.head_dim
        h, g = config.num_heads, config.num_kv_heads
        self.query = nnx.Param(_INIT(rngs.params(), (d, h, k), dtype))
        self.key = nnx.Param(_INIT(rngs.params(), (d, g, k), dtype))
        self.value = nnx.Param(_INIT(rngs.params(), (d, g, k), dtype))
        self.output = nnx.Param(_INIT(rngs.params(), (h, k, d), dtype))
        self.query_bias = _zeros((h, k), dtype) if config.qkv_bias else None
        self.key_bias = _zeros((g, k), dtype) if config.qkv_bias else None
        self.value_bias = _zeros((g, k), dtype) if config.qkv_bias else None
        self.output_bias = _zeros((d,), dtype) if config.output_bias else None
        self.query_norm = Norm(config, dtype, k) if config.qk_norm else None
        self.key_norm = Norm(config, dtype, k) if config.qk_norm else None
        self.config = config

    def __call__(
        self,
        x: Float[Array, "T D"],
        turns: Float[Array, "T 2 half"] | None,
        mask: Bool[Array, "T T"],
        rule: GradientRule,
    ) -> Float[Array, "T D"]:
        q, k, v = self.project(x, turns, rule)
        return self.attend(q, [KeyValues(k, v, mask)], rule)

    def project(
        self, x: Float[Array, "T D"], turns: Float[Array, "T 2 half"] | None, rule: GradientRule
    ) -> tuple[Float[Array, "T H K"], Float[Array, "T G K"], Float[Array, "T G K"]]:
        """Return queries, keys and values, the first two normalised where asked, and rotated."""

        def turned(x: Array, norm: Norm | None) -> Array:
            x = x if norm is None else norm(x, rule)
            return x if turns is None else rotate(x, turns)

        q = turned(_project("td,dhk->thk", x, self.query, self.query_bias), self.query_norm)
        k = turned(_project("td,dgk->tgk", x, self.key, self.key_bias), self.key_norm)
        return q, k, _project("td,dgk->tgk", x, self.value, self.value_bias)

    def attend(
        self,
        q: Float[Array, "T H K"],
        sources: Sequence[KeyValues],
        rule: GradientRule,
    ) -> Float[Array, "T D"]:
        """Return what the heads write, from the keys and values of all sources together."""
        return self.mix(self.pattern(q, sources, rule), sources)

    def pattern(
        self, q: Float[Array, "T H K"], sources: Sequence[KeyValues], rule: GradientRule
    ) -> Float[Array, "G R T S"]:
        """Return how each of a group's R heads divides its attention over all sources."""
        config, g, dtype = self.config, self.config.num_kv_heads, self.query[...].dtype
        q = q.reshape(q.shape[0], g, config.num_heads // g, config.head_dim)
        scores = jnp.concatenate([_scores(q, source, config, dtype) for source in sources], -1)
        return rule.pattern(jax.nn.softmax(scores, axis=-1))

    def mix(
        self, pattern: Float[Array, "G R T S"], sources: Sequence[KeyValues]
    ) -> Float[Array, "T D"]:
        """Return what heads that attend by a pattern write."""
        ends = np.cumsum([source.mask.shape[-1] for source in sources])[:-1]
        g, r, length = pattern.shape[:3]
        z = jnp.zeros((length, g, r, self.config.head_dim), jnp.float32)
        for part, source in zip(jnp.split(pattern, ends, axis=-1), sources, strict=True):
            z = z + _einsum("grts,sgk->tgrk", part, source.values, self.query[...].dtype)
        return _project("thk,hkd->td", z.reshape(length, g * r, -1), self.output, self.output_bias)


class Mlp(nnx.Module):
    """MLP: down(act(gate(x)) * up(x)), or down(act(up(x))) without a gate."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32):
        d, m = config.d_model, config.d_mlp
        self.gate = nnx.Param(_INIT(rngs.params(), (d, m), dtype)) if config.gated else None
        self.up = nnx.Param(_INIT(rngs.params(), (d, m), dtype))
        self.down = nnx.Param(_INIT(rngs.params(), (m, d), dtype))
        self.up_bias = _zeros((m,), dtype) if config.output_bias else None
        self.down_bias = _zeros((d,), dtype) if config.output_bias else None
        self.silu = config.activation == "silu"

    def __call__(self, x: Float[Array, "T D"], rule: GradientRule) -> Float[Array, "T D"]:
        return _project("tm,md->td", self._hidden(x, rule), self.down, self.down_bias)

    def _hidden(self, x: Float[Array, "T D"], rule: GradientRule) -> Float[Array, "T M"]:
        activation = jax.nn.silu if self.silu else jax.nn.gelu
        if self.gate is None:
            return rule.activation(activation, _project("td,dm->tm", x, self.up, self.up_bias))
        gate = rule.activation(activation, _project("td,dm->tm", x, self.gate))
        return rule.product(gate * _project("td,dm->tm", x, self.up, self.up_bias))


class Block(nnx.Module):
    """Attention and MLP around a residual stream, with Gemma-2's post-norms where asked."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32):
        self.attention_norm = Norm(config, dtype)
        self.attention = Attention(config, rngs, dtype)
        self.mlp_norm = Norm(config, dtype)
        self.mlp = Mlp(config, rngs, dtype)
        self.attention_post_norm = Norm(config, dtype) if config.post_norms else None
        self.mlp_post_norm = Norm(config, dtype) if config.post_norms else None

    def __call__(
        self,
        x: Float[Array, "T D"],
        turns: Float[Array, "T 2 half"] | None,
        mask: Bool[Array, "T T"],
        rule: GradientRule,
        mlp_delta: Float[Array, "T D"] | None = None,
    ) -> tuple[Float[Array, "T D"], Float[Array, "T D"], Float[Array, "T D"]]:
        """Return the stream after the block, resid_mid and the MLP's output, [T, D] each."""
        attended = self.attention(self.attention_norm(x, rule), turns, mask, rule)
        resid_mid = self.add_attention(x, attended, rule)
        mlp_out = self.mlp_output(resid_mid, rule)
        written = mlp_out if mlp_delta is None else mlp_out + mlp_delta
        return resid_mid + written, resid_mid, mlp_out

    def add_attention(
        self, x: Float[Array, "T D"], attended: Float[Array, "T D"], rule: GradientRule
    ) -> Float[Array, "T D"]:
        """Return the stream between attention and MLP, resid_mid."""
        if self.attention_post_norm is not None:
            attended = self.attention_post_norm(attended, rule)
        return x + attended

    def mlp_output(self, resid_mid: Float[Array, "T D"], rule: GradientRule) -> Float[Array, "T D"]:
        """Return what the MLP writes, after its post-norm if it has one."""
        mlp_out = self.mlp(self.mlp_norm(resid_mid, rule), rule)
        if self.mlp_post_norm is not None:
            mlp_out = self.mlp_post_norm(mlp_out, rule)
        return rule.mlp_output(mlp_out)


class Transformer(nnx.Module):
    """Token ids to logits for one prompt; interventions come in as `mlp_delta`."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32):
        vocabulary = (config.vocab_size, config.d_model)
        self.config = config
        self.embedding = nnx.Param(_INIT(rngs.params(), vocabulary, dtype))
        places = (config.max_positions, config.d_model)
        self.positions = (
            nnx.Param(_INIT(rngs.params(), places, dtype)) if config.rope_theta is None else None
        )

        @nnx.vmap(in_axes=0, out_axes=0)
        def stack(layer_rngs: nnx.Rngs) -> Block:
            return Block(config, layer_rngs, dtype)

        self.blocks = stack(rngs.split(config.num_layers))
        self.final_norm = Norm(config, dtype)
        self.unembedding = (
            None if config.tie_embeddings else nnx.Param(_INIT(rngs.params(), vocabulary, dtype))
        )

    def streams(
        self,
        tokens: Int[Array, " T"],
        mlp_delta: Float[Array, "L T D"] | None = None,
        rule: GradientRule = FULL,
    ) -> Streams:
        """Run every layer; `mlp_delta` is added to the MLP outputs.

        Padding goes on the right: attention is causal, so it changes nothing before it.
        """
        config, length = self.config, tokens.shape[0]
        x = self.embed(tokens)
        turns = rotation(config, jnp.arange(length))
        causal, local = attention_masks(config, length)
        sliding = jnp.asarray(config.sliding_layers or (False,) * config.num_layers)

        def layer(x, inputs):
            block, slides, delta = inputs
            mask = jnp.where(slides, local, causal)
            x, resid_mid, mlp_out = block(x, turns.of(slides), mask, rule, delta)
            return x, (resid_mid, mlp_out)

        x, (resid_mid, mlp_out) = scan_layers(layer, x, self.blocks, sliding, mlp_delta)
        return Streams(x, resid_mid, mlp_out)

    def transcoder_inputs(
        self, resid_mid: Float[Array, "L T D"], site: str
    ) -> Float[Array, "L T D"]:
        """Return what a transcoder reads at an input site (`read_at`) in every layer."""
        if site == "resid_mid":
            return resid_mid
        return jax.vmap(lambda norm, x: read_at(site, norm, x))(self.blocks.mlp_norm, resid_mid)

    def token_rows(self, tokens: Int[Array, " T"]) -> Float[Array, "T D"]:
        """Look tokens up, [T, D] in float32, without their positions."""
        table = self.embedding[...]
        x = take_rows(table, tokens).astype(jnp.float32)
        if self.config.scale_embeddings:
            x = x * jnp.sqrt(jnp.float32(self.config.d_model)).astype(table.dtype).astype(x.dtype)
        return x

    def embed(
        self, tokens: Int[Array, " T"], start: int | Int[Array, ""] = 0
    ) -> Float[Array, "T D"]:
        """Look up tokens that stand at `start` and after it, [T, D] in float32.

        Padding may lie beyond the last learned position, and is given that one.
        """
        x = self.token_rows(tokens)
        if self.positions is None:
            return x
        at = jnp.minimum(start + jnp.arange(tokens.shape[0]), self.config.max_positions - 1)
        return x + take_rows(self.positions[...], at).astype(jnp.float32)

    def unembed(
        self, residual: Float[Array, "T D"], rule: GradientRule = FULL
    ) -> Float[Array, "T V"]:
        """Turn the last residual stream at any positions into logits, float32."""
        return self._logits(residual, self.unembedding_rows(), rule)

    def unembed_ids(
        self, residual: Float[Array, "T D"], ids: Int[Array, " I"], rule: GradientRule = FULL
    ) -> Float[Array, "T I"]:
        """Return the logits of a few words only, float32."""
        return self._logits(residual, take_rows(self.unembedding_rows(), ids), rule)

    def unembedding_rows(self) -> Float[Array, "V D"]:
        """Return what the last stream is multiplied with, one row a token."""
        return (self.embedding if self.unembedding is None else self.unembedding)[...]

    def _logits(self, residual: Array, rows: Array, rule: GradientRule) -> Array:
        return self.softcapped(self._uncapped(residual, rows, rule))

    def _uncapped(self, residual: Array, rows: Array, rule: GradientRule) -> Array:
        return _einsum("td,vd->tv", self.final_norm(residual, rule), rows, rows.dtype)

    def uncapped_logits(
        self, residual: Float[Array, "T D"], rule: GradientRule = FULL
    ) -> Float[Array, "T V"]:
        """Return logits before the final softcap, float32; without one they are the logits."""
        return self._uncapped(residual, self.unembedding_rows(), rule)

    def softcapped(self, logits: Float[Array, "*T V"]) -> Float[Array, "*T V"]:
        """Apply the final softcap, if there is one."""
        cap = self.config.final_softcap
        return logits if cap is None else cap * jnp.tanh(logits / cap)

    def __call__(
        self,
        tokens: Int[Array, " T"],
        mlp_delta: Float[Array, "L T D"] | None = None,
        rule: GradientRule = FULL,
    ) -> Outputs:
        """Return logits [T, V], CLT inputs and MLP outputs [L, T, D]; what is unused costs nothing
        under jit."""
        streams = self.streams(tokens, mlp_delta, rule)
        logits = self.unembed(streams.residual, rule)
        return Outputs(logits, streams.resid_mid, streams.mlp_out)


def read_at(
    site: str, mlp_norm: Norm, resid_mid: Float[Array, "*T D"], rule: GradientRule = FULL
) -> Float[Array, "*T D"]:
    """Return what a transcoder reads in one layer: `resid_mid`, the MLP's input `mlp_in`, or
    `ln2_normalized`, that input before the norm's weight and bias."""
    if site == "resid_mid":
        return resid_mid
    return mlp_norm(resid_mid, rule) if site == "mlp_in" else mlp_norm.normalized(resid_mid, rule)


def attention_masks(config: ModelConfig, length: int) -> tuple[Array, Array]:
    """Return which positions queries see in layers that see everything and in sliding ones."""
    distance = jnp.arange(length)[:, None] - jnp.arange(length)[None, :]
    causal = distance >= 0
    if config.sliding_window is None:
        return causal, causal
    return causal, causal & (distance < config.sliding_window)


def _scores(
    q: Float[Array, "T G R K"], source: KeyValues, config: ModelConfig, dtype: DTypeLike
) -> Float[Array, "G R T S"]:
    scores = _einsum("tgrk,sgk->grts", q, source.keys, dtype) * config.scale
    if config.attention_softcap is not None:
        cap = config.attention_softcap
        scores = cap * jnp.tanh(scores / cap)
    return jnp.where(source.mask, scores, -jnp.inf)


def _zeros(shape: tuple[int, ...], dtype: DTypeLike) -> nnx.Param:
    return nnx.Param(jnp.zeros(shape, dtype))


def _project(spec: str, x: Array, weight: nnx.Param, bias: nnx.Param | None = None) -> Array:
    out = _einsum(spec, x, weight[...], weight[...].dtype)
    return out if bias is None else out + bias[...].astype(jnp.float32)


def _einsum(spec: str, x: Array, y: Array, dtype: DTypeLike) -> Array:
    # Products in the weights' dtype, sums in float32 whatever that is.
    return jnp.einsum(
        spec,
        x.astype(dtype),
        y.astype(dtype),
        preferred_element_type=jnp.float32,
        precision=jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None,
    )
