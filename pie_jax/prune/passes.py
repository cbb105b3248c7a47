"""The compiled passes of pruning: one prompt inside, a batch outside, shapes static.

Shapes: B batch, L layers, T positions, D model, N occurrences, S sets, K members of a set.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pie_jax.kernels import Writes, gradient_times_write, map_sets, removal_delta, write
from pie_jax.models.gradient_rules import FULL, GradientRule
from pie_jax.models.transformer import Transformer
from pie_jax.prune.metrics import Metric, Prompt, last_logits

_TABLE_SHARED = (None, 0, 0)


class Behaviour(NamedTuple):
    """How a model with something removed behaves beside the clean one; arrays [S], or scalars."""

    kl_last: Any
    kl_mean: Any
    top1_changed: Any
    metric: Any


@partial(jax.jit, static_argnames="site")
def transcoder_inputs(model: Transformer, tokens: Int[Array, "B T"], site: str) -> Array:
    """Return what a transcoder reads on each prompt, [B, L, T, D] in float32."""

    def one(tokens: Array) -> Array:
        resid_mid = model.streams(tokens).resid_mid
        return model.mlp_inputs(resid_mid) if site == "mlp_in" else resid_mid

    return jax.vmap(one)(tokens)


@partial(jax.jit, static_argnames=("metric", "rule"))
def metric_gradients(
    model: Transformer, prompts: Prompt, metric: Metric, rule: GradientRule
) -> tuple[Float[Array, " B"], Float[Array, "B L T D"]]:
    """Return the metric on the clean run and its gradient by the MLP outputs under a rule."""

    def one(prompt: Prompt) -> tuple[Array, Array]:
        def value(mlp_delta):
            residual = model.streams(prompt.tokens, mlp_delta, rule).residual
            return metric.value(model, residual, prompt, rule)

        return jax.value_and_grad(value)(_zero_delta(model, prompt))

    return jax.vmap(one)(prompts)


@jax.jit
def attribute(
    table: Float[Array, "R D"],
    writes: Writes,
    delta: Float[Array, "B N"],
    gradient: Float[Array, "B L T D"],
) -> Float[Array, "B N"]:
    """Return gradient x write x change of activation for every occurrence of every prompt."""
    return delta * jax.vmap(gradient_times_write, _TABLE_SHARED)(table, writes, gradient)


@partial(jax.jit, static_argnames=("layers", "length"))
def total_writes(
    table: Float[Array, "R D"], writes: Writes, delta: Float[Array, "B N"], layers: int, length: int
) -> Float[Array, "B L T D"]:
    """Return what all occurrences of each prompt write together; one prompt's rows at a time."""
    return jax.lax.map(lambda one: write(table, one[0], one[1], layers, length), (writes, delta))


@partial(jax.jit, static_argnames=("metric", "chunk"))
def removal_metrics(
    model: Transformer,
    prompts: Prompt,
    table: Float[Array, "R D"],
    writes: Writes,
    delta: Float[Array, "B N"],
    sets: Int[Array, "B S K"],
    metric: Metric,
    chunk: int,
) -> Float[Array, "B S"]:
    """Return the metric of each prompt with each set of its occurrences removed."""

    def one(prompt: Prompt, writes: Writes, delta: Array, sets: Array) -> Array:
        def evaluate(members):
            removed = removal_delta(table, writes, delta, members, *_sizes(model, prompt))
            residual = model.streams(prompt.tokens, removed).residual
            return metric.value(model, residual, prompt, FULL)

        return map_sets(evaluate, sets, chunk)

    return jax.vmap(one)(prompts, writes, delta, sets)


@partial(jax.jit, static_argnames=("metric", "chunk"))
def circuit_behaviour(
    model: Transformer,
    prompts: Prompt,
    table: Float[Array, "R D"],
    writes: Writes,
    delta: Float[Array, "B N"],
    total: Float[Array, "B L T D"],
    kept: Int[Array, "B S K"],
    metric: Metric,
    chunk: int,
) -> tuple[Behaviour, Float[Array, "B S"]]:
    """Return the behaviour with only each set kept, and the metric with only that set removed.

    The write of everything removed is (all - kept), so a set costs its own rows alone.
    """

    def one(
        prompt: Prompt, writes: Writes, delta: Array, total: Array, kept: Array
    ) -> tuple[Behaviour, Array]:
        clean = model(prompt.tokens).logits

        def evaluate(members: Array) -> tuple[Behaviour, Array]:
            without = removal_delta(table, writes, delta, members, *_sizes(model, prompt))
            complement = model.streams(prompt.tokens, without).residual
            circuit = model.streams(prompt.tokens, -total - without).residual
            behaviour = compare(model, prompt, clean, circuit, metric)
            return behaviour, metric.value(model, complement, prompt, FULL)

        return map_sets(evaluate, kept, chunk)

    return jax.vmap(one)(prompts, writes, delta, total, kept)


@partial(jax.jit, static_argnames="metric")
def end_points(
    model: Transformer, prompts: Prompt, total: Float[Array, "B L T D"], metric: Metric
) -> tuple[Float[Array, " B"], Behaviour]:
    """Return the metric on the clean run and the behaviour with every occurrence removed."""

    def one(prompt: Prompt, total: Array) -> tuple[Array, Behaviour]:
        clean = model.streams(prompt.tokens).residual
        null = model.streams(prompt.tokens, -total).residual
        logits = model.unembed(clean)
        value = metric.value(model, clean, prompt, FULL)
        return value, compare(model, prompt, logits, null, metric)

    return jax.vmap(one)(prompts, total)


def compare(
    model: Transformer,
    prompt: Prompt,
    clean: Float[Array, "T V"],
    residual: Float[Array, "T D"],
    metric: Metric,
) -> Behaviour:
    """Compare a changed run with the clean logits: KL(clean || changed) in nats, float32."""
    changed = model.unembed(residual)
    kl = kl_divergence(clean, changed)
    real = jnp.arange(kl.shape[0]) < prompt.length
    last = prompt.length - 1
    return Behaviour(
        kl_last=kl[last],
        kl_mean=jnp.where(real, kl, 0.0).sum() / prompt.length,
        top1_changed=jnp.argmax(clean[last]) != jnp.argmax(changed[last]),
        metric=metric.value(model, residual, prompt, FULL),
    )


def kl_divergence(clean: Float[Array, "*T V"], changed: Float[Array, "*T V"]) -> Array:
    """Return KL(clean || changed) of two sets of logits over the last axis, in nats."""
    log_p, log_q = jax.nn.log_softmax(clean), jax.nn.log_softmax(changed)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


def kl_at_last(
    model: Transformer, prompt: Prompt, clean: Float[Array, " V"], mlp_delta: Float[Array, "L T D"]
) -> Float[Array, ""]:
    """Return KL(clean || changed) at the last position of a run with `mlp_delta`."""
    residual = model.streams(prompt.tokens, mlp_delta).residual
    return kl_divergence(clean, last_logits(model, residual, prompt))


def _sizes(model: Transformer, prompt: Prompt) -> tuple[int, int]:
    return model.config.num_layers, prompt.tokens.shape[-1]


def _zero_delta(model: Transformer, prompt: Prompt) -> Array:
    return jnp.zeros((*_sizes(model, prompt), model.config.d_model), jnp.float32)
