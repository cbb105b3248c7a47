"""KL(clean || circuit) and the metric of circuits and their complements, measured exactly.

Shapes: B batch, M corruptions, L layers, W positions, D model, V vocabulary, S sets, K members of
a set. Where there are several corruptions, results are means over them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pie_jax.devices.programs import program
from pie_jax.kernels import map_sets
from pie_jax.models.gradient_rules import FULL, GradientRule
from pie_jax.prune.batch.metrics import METRICS, Metric, last_logits
from pie_jax.prune.batch.problem import Problem, mean_over_corruptions, over_prompts


class Behaviour(NamedTuple):
    """How a model with something removed behaves beside the clean one; arrays [S], or scalars.

    `top1_changed` is the share of corruptions under which the likeliest token is another.
    """

    kl_last: Any
    kl_mean: Any
    top1_changed: Any
    metric: Any


@program("metric", "chunk")
def circuit_behaviour(
    problem: Problem,
    total: Float[Array, "B M L W D"],
    kept: Int[Array, "B S K"],
    metric: Metric,
    chunk: int,
) -> tuple[Behaviour, Float[Array, "B S"]]:
    """Return the behaviour with only each set kept, and the metric with only that set removed.

    The write of everything removed is (all - kept), so a set costs its own rows alone. Of the empty
    set these are the null and the clean metric, equal to the last bit where nothing is written.
    """

    def one(problem: Problem, total: Array, kept: Array) -> tuple[Behaviour, Array]:
        clean = problem.model.unembed(problem.clean())

        def evaluate(members: Array) -> tuple[Behaviour, Array]:
            def under(delta: Array, total: Array) -> tuple[Behaviour, Array]:
                without = problem.removed(delta, members)
                # Side by side: one body to compile, and the same sums in both.
                residual = jax.vmap(problem.run)(jnp.stack([-total - without, without]))
                behaviour = compare(problem, clean, residual[0], metric)
                return behaviour, problem.value(metric, residual[1])

            return mean_over_corruptions(under, problem.delta, total)

        return map_sets(evaluate, kept, chunk)

    return over_prompts(one, problem, total, kept)


@program("chunk")
def circuit_kl_last(
    problem: Problem,
    total: Float[Array, "B M L W D"],
    kept: Int[Array, "B S K"],
    chunk: int,
) -> Float[Array, "B S"]:
    """Return the KL at the last position with only each set kept, in nats: of `circuit_behaviour`
    that alone, without the complement."""

    def one(problem: Problem, total: Array, kept: Array) -> Array:
        clean = last_logits(problem.model, problem.clean(), problem.prompt)

        def evaluate(members: Array) -> Array:
            def under(delta: Array, total: Array) -> Array:
                without = problem.removed(delta, members)
                return kl_at_last(problem, clean, -total - without)

            return mean_over_corruptions(under, problem.delta, total)

        return map_sets(evaluate, kept, chunk)

    return over_prompts(one, problem, total, kept)


def compare(
    problem: Problem, clean: Float[Array, "W V"], residual: Float[Array, "W D"], metric: Metric
) -> Behaviour:
    """Compare a changed run with the clean logits: KL(clean || changed) in nats, float32.

    Before the window nothing changes: KL is 0 there.
    """
    changed = problem.model.unembed(residual)
    kl = kl_divergence(clean, changed)
    real = jnp.arange(kl.shape[0]) < problem.prompt.length
    last = problem.prompt.length - 1
    return Behaviour(
        kl_last=kl[last],
        kl_mean=jnp.where(real, kl, 0.0).sum() / problem.length(),
        top1_changed=(jnp.argmax(clean[last]) != jnp.argmax(changed[last])).astype(jnp.float32),
        metric=problem.value(metric, residual),
    )


def kl_divergence(clean: Float[Array, "*T V"], changed: Float[Array, "*T V"]) -> Array:
    """Return KL(clean || changed) of two sets of logits over the last axis, in nats."""
    log_p, log_q = jax.nn.log_softmax(clean), jax.nn.log_softmax(changed)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


def kl_at_last(
    problem: Problem,
    clean: Float[Array, " V"],
    change: Float[Array, "L W D"],
    rule: GradientRule = FULL,
) -> Float[Array, ""]:
    """Return KL(clean || changed) at the last position of a run with `change`, in nats."""
    residual = problem.run(change, rule)
    return kl_divergence(clean, last_logits(problem.model, residual, problem.prompt, rule))


def objective_value(
    problem: Problem,
    clean: Float[Array, " V"],
    change: Float[Array, "L W D"],
    objective: str,
    rule: GradientRule = FULL,
) -> Float[Array, ""]:
    """Return a metric of a run with `change`, by its name, or for `kl` minus the KL to the clean
    logits at the last position in nats: what is better is larger."""
    if objective == "kl":
        return -kl_at_last(problem, clean, change, rule)
    return problem.value(METRICS[objective], problem.run(change, rule), rule)
