"""The compiled passes of pruning: one prompt inside, a batch outside, shapes static.

Shapes: B batch, M corruptions, L layers, T positions, D model, N occurrences, S sets, K members
of a set. Where there are several corruptions, results are means over them.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pie_jax.kernels import Writes, gradient_times_write, map_sets, write
from pie_jax.models.gradient_rules import FULL, GradientRule
from pie_jax.models.transformer import Transformer
from pie_jax.prune.metrics import Metric, Prompt, last_logits
from pie_jax.prune.problem import Problem, mean_over_corruptions, over_prompts


class Behaviour(NamedTuple):
    """How a model with something removed behaves beside the clean one; arrays [S], or scalars.

    `top1_changed` is the share of corruptions under which the likeliest token is another.
    """

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
    problem: Problem, metric: Metric, rule: GradientRule
) -> tuple[Float[Array, " B"], Float[Array, "B L T D"]]:
    """Return the metric on the clean run and its gradient by the MLP outputs under a rule."""

    def one(problem: Problem) -> tuple[Array, Array]:
        model, prompt = problem.model, problem.prompt

        def value(mlp_delta):
            residual = model.streams(prompt.tokens, mlp_delta, rule).residual
            return metric.value(model, residual, prompt, rule)

        return jax.value_and_grad(value)(problem.no_change())

    return over_prompts(one, problem)


@jax.jit
def attribute(problem: Problem, gradient: Float[Array, "B L T D"]) -> Float[Array, "B N"]:
    """Return gradient x write x change of activation, the mean over corruptions."""

    def one(problem: Problem, gradient: Array) -> Array:
        product = gradient_times_write(problem.table, problem.writes, gradient)
        return problem.delta.mean(axis=0) * product

    return over_prompts(one, problem, gradient)


@jax.jit
def total_writes(problem: Problem) -> Float[Array, "B M L T D"]:
    """Return what all occurrences of each prompt write together; one prompt's rows at a time."""

    def one(of_prompt: tuple[Writes, Array]) -> Array:
        writes, deltas = of_prompt
        return jax.lax.map(
            lambda delta: write(problem.table, writes, delta, *problem.sizes), deltas
        )

    return jax.lax.map(one, (problem.writes, problem.delta))


@partial(jax.jit, static_argnames=("metric", "chunk"))
def removal_metrics(
    problem: Problem, sets: Int[Array, "B S K"], metric: Metric, chunk: int
) -> Float[Array, "B S"]:
    """Return the metric of each prompt with each set of its occurrences removed."""

    def one(problem: Problem, sets: Array) -> Array:
        model, prompt = problem.model, problem.prompt

        def evaluate(members: Array) -> Array:
            def removed(delta: Array) -> Array:
                change = problem.removed(delta, members)
                residual = model.streams(prompt.tokens, change).residual
                return metric.value(model, residual, prompt, FULL)

            return mean_over_corruptions(removed, problem.delta)

        return map_sets(evaluate, sets, chunk)

    return over_prompts(one, problem, sets)


@partial(jax.jit, static_argnames=("metric", "chunk"))
def circuit_behaviour(
    problem: Problem,
    total: Float[Array, "B M L T D"],
    kept: Int[Array, "B S K"],
    metric: Metric,
    chunk: int,
) -> tuple[Behaviour, Float[Array, "B S"]]:
    """Return the behaviour with only each set kept, and the metric with only that set removed.

    The write of everything removed is (all - kept), so a set costs its own rows alone.
    """

    def one(problem: Problem, total: Array, kept: Array) -> tuple[Behaviour, Array]:
        model, prompt = problem.model, problem.prompt
        clean = model(prompt.tokens).logits

        def evaluate(members: Array) -> tuple[Behaviour, Array]:
            def under(delta: Array, total: Array) -> tuple[Behaviour, Array]:
                without = problem.removed(delta, members)
                complement = model.streams(prompt.tokens, without).residual
                circuit = model.streams(prompt.tokens, -total - without).residual
                behaviour = compare(model, prompt, clean, circuit, metric)
                return behaviour, metric.value(model, complement, prompt, FULL)

            return mean_over_corruptions(under, problem.delta, total)

        return map_sets(evaluate, kept, chunk)

    return over_prompts(one, problem, total, kept)


@partial(jax.jit, static_argnames="metric")
def end_points(
    problem: Problem, total: Float[Array, "B M L T D"], metric: Metric
) -> tuple[Float[Array, " B"], Behaviour]:
    """Return the metric on the clean run and the behaviour with every occurrence removed."""

    def one(problem: Problem, total: Array) -> tuple[Array, Behaviour]:
        model, prompt = problem.model, problem.prompt
        clean = model.streams(prompt.tokens).residual
        logits = model.unembed(clean)

        def under(_: Array, total: Array) -> Behaviour:
            null = model.streams(prompt.tokens, -total).residual
            return compare(model, prompt, logits, null, metric)

        value = metric.value(model, clean, prompt, FULL)
        return value, mean_over_corruptions(under, problem.delta, total)

    return over_prompts(one, problem, total)


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
        top1_changed=(jnp.argmax(clean[last]) != jnp.argmax(changed[last])).astype(jnp.float32),
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
