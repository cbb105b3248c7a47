"""The compiled passes of pruning: one prompt inside, a batch outside, shapes static.

Shapes: B batch, M corruptions, L layers, W positions, D model, N occurrences, S sets, K members
of a set. Where there are several corruptions, results are means over them.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pie_jax.devices.programs import program
from pie_jax.kernels import map_sets
from pie_jax.models.cached_prefix import CachedPrefix, record, run_window, window
from pie_jax.models.gradient_rules import GradientRule
from pie_jax.models.transformer import Transformer
from pie_jax.prune.batch.metrics import Metric, Prompt
from pie_jax.prune.batch.problem import Problem, mean_over_corruptions, over_prompts


@program("site")
def transcoder_inputs(model: Transformer, tokens: Int[Array, "B T"], site: str) -> Array:
    """Return what a transcoder reads on each prompt, [B, L, T, D] in float32."""

    def one(tokens: Array) -> Array:
        return model.transcoder_inputs(model.streams(tokens).resid_mid, site)

    return jax.vmap(one)(tokens)


class Reading(NamedTuple):
    """What a batch of prompts is read for: the transcoder's inputs on the clean run [B, L, T, D]
    and on the corrupted ones [B, M, L, T, D], the window, and the metric before it [B]."""

    clean: Float[Array, "B L T D"]
    corrupted: Float[Array, "B M L T D"] | None
    window: CachedPrefix | None
    before: Float[Array, " B"]


def read_whole(
    model: Transformer, prompts: Prompt, corrupted: Int[Array, "B M T"] | None, site: str
) -> Reading:
    """Run every version of each prompt from the start: the plain path, for comparison."""
    read = None
    if corrupted is not None:
        batch, versions, length = corrupted.shape
        read = transcoder_inputs(model, corrupted.reshape(-1, length), site)
        read = read.reshape(batch, versions, *read.shape[1:])
    zero = jnp.zeros(prompts.length.shape, jnp.float32)
    return Reading(transcoder_inputs(model, prompts.tokens, site), read, None, zero)


@program("size", "site", "metric")
def read_windows(
    model: Transformer,
    prompts: Prompt,
    corrupted: Int[Array, "B M T"] | None,
    start: Int[Array, " B"],
    size: int,
    site: str,
    metric: Metric,
) -> Reading:
    """Run each clean prompt once, and its corrupted versions from position `start` on alone."""

    def inputs(resid_mid: Array) -> Array:
        return model.transcoder_inputs(resid_mid, site)

    def one(prompt: Prompt, others: Array | None, start: Array) -> Reading:
        recorded = record(model, prompt.tokens)
        of = window(recorded, start, size)

        def changed(tokens: Array) -> Array:
            x = model.embed(jax.lax.dynamic_slice_in_dim(tokens, start, size), start)
            _, resid_mid = run_window(model, of, x)
            whole = jax.lax.dynamic_update_slice_in_dim(recorded.resid_mid, resid_mid, start, 1)
            return inputs(whole)

        read = None if others is None else jax.vmap(changed)(others)
        before = jnp.float32(0)
        if not metric.last_only:
            before = metric.value(model, recorded.residual, prompt._replace(length=start))
        return Reading(inputs(recorded.resid_mid), read, of, before)

    axes = (0, None if corrupted is None else 0, 0)
    return jax.vmap(one, axes)(prompts, corrupted, start)


@program("metric", "rule")
def metric_gradients(
    problem: Problem, metric: Metric, rule: GradientRule
) -> tuple[Float[Array, " B"], Float[Array, "B L W D"]]:
    """Return the metric on the clean run and its gradient by the MLP outputs under a rule."""

    def one(problem: Problem) -> tuple[Array, Array]:
        def value(change: Array) -> Array:
            return problem.value(metric, problem.run(change, rule), rule)

        return jax.value_and_grad(value)(problem.no_change())

    return over_prompts(one, problem)


@program()
def attribute(problem: Problem, gradient: Float[Array, "B L W D"]) -> Float[Array, "B N"]:
    """Return gradient x write x change of activation, the mean over corruptions."""

    def one(problem: Problem, gradient: Array) -> Array:
        return problem.delta.mean(axis=0) * problem.product(gradient)

    return over_prompts(one, problem, gradient)


@program()
def total_writes(problem: Problem) -> Float[Array, "B M L W D"]:
    """Return what all occurrences of each prompt write together, under each corruption."""
    return over_prompts(lambda problem: jax.vmap(problem.written)(problem.delta), problem)


@program("metric", "chunk")
def removal_metrics(
    problem: Problem, sets: Int[Array, "B S K"], metric: Metric, chunk: int
) -> Float[Array, "B S"]:
    """Return the metric of each prompt with each set of its occurrences removed."""

    def one(problem: Problem, sets: Array) -> Array:
        def evaluate(members: Array) -> Array:
            def removed(delta: Array) -> Array:
                return problem.value(metric, problem.run(problem.removed(delta, members)))

            return mean_over_corruptions(removed, problem.delta)

        return map_sets(evaluate, sets, chunk)

    return over_prompts(one, problem, sets)


@program("metric")
def clean_metric(problem: Problem, metric: Metric) -> Float[Array, " B"]:
    """Return the metric of each prompt with nothing removed."""
    return over_prompts(lambda problem: problem.value(metric, problem.clean()), problem)
