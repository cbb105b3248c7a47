"""A nested path of circuits over all occurrences: grown from nothing or shrunk from everything, by
the metric or by KL, under any gradient rule.

One stage from everything, by the metric under the frozen rule, is FAP; one from nothing is FAP with
gradients at the null. `search.grow` is the fast form of the default: grown by KL, full gradients.

Shapes: B batch, N occurrences, E stages.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from pie_jax.devices.programs import program
from pie_jax.models.gradient_rules import GRADIENT_RULES, GradientRule
from pie_jax.prune.batch.metrics import last_logits
from pie_jax.prune.batch.problem import Problem, mean_over_corruptions, over_prompts
from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.engine.kl import objective_value
from pie_jax.prune.search.grow import ENOUGH, additions, largest, stage_count, stage_ends

# KL has no gradient at the clean run: the first stage from there averages over these shares kept.
_SHARES = (0.125, 0.375, 0.625, 0.875)


class NestedPath(NamedTuple):
    """Circuits after each stage: `mask`, and the `score` by which its members were chosen."""

    mask: Float[Array, "*B E N"]
    score: Float[Array, "*B E N"]


def nested_path(inputs: BatchEvaluator, ends: list[int]) -> NestedPath:
    """Return circuits of `ends` [E] members, rising; shrunk ones were found from the last down."""
    options = inputs.options.search
    shrinks = options.start == "everything"
    objective = inputs.options.metric if options.objective == "metric" else "kl"
    sizes = jnp.asarray(ends[::-1] if shrinks else ends)
    valid = inputs.put(inputs.occurrences.valid)
    rule = GRADIENT_RULES[options.rule]
    found = _path(inputs.problem, inputs.total, valid, sizes, objective, rule, shrinks)
    return NestedPath(*(x[:, ::-1] for x in found)) if shrinks else found


def path_ends(inputs: BatchEvaluator, budgets: tuple[int, ...]) -> list[int]:
    """Return the sizes of a path's circuits, every budget among them."""
    stages = inputs.options.search.stages
    if inputs.options.search.start == "nothing":
        return stage_ends(budgets, stages)
    most = int(inputs.occurrences.count.max())
    # A stage more than asked for is the start itself.
    grid = np.rint(np.geomspace(min(budgets), most, stage_count(most, stages) + 1)).astype(int)
    return sorted({*grid[:-1].tolist(), *budgets})


@program("objective", "rule", "shrinks")
def _path(
    problem: Problem,
    total: Float[Array, "B M L W D"],
    valid: Bool[Array, "B N"],
    ends: Int[Array, " E"],
    objective: str,
    rule: GradientRule,
    shrinks: bool,
) -> NestedPath:
    def one(problem: Problem, total: Array, valid: Array) -> NestedPath:
        worth = partial(_worth, problem, total, objective=objective, rule=rule)

        def cut(mask: Array, score: Array, end: Array) -> Array:
            # The metric should stay where it is, KL should fall.
            order = score if objective == "kl" else jnp.abs(score)
            outside, inside = (-jnp.inf, order) if shrinks else (order, jnp.inf)
            order = jnp.where(mask > 0, inside, outside)
            return largest(jnp.where(valid, order, -jnp.inf), end)

        def grown(mask: Array, score: Array, end: Array, kl: Array) -> Array:
            free = jnp.where(valid & (mask == 0), score, -jnp.inf)
            new = additions(free, end - (mask > 0).sum(), ENOUGH * kl, len(free))
            return jnp.maximum(mask, new.astype(mask.dtype))

        def stage(mask: Array, end: Array) -> tuple[Array, NestedPath]:
            value, score = worth(mask)
            if objective == "kl" and not shrinks:
                mask = grown(mask, score, end, -value)
            else:
                mask = cut(mask, score, end)
            return mask, NestedPath(mask, score)

        everything = valid.astype(jnp.float32)
        if not (shrinks and objective == "kl"):
            start = everything if shrinks else jnp.zeros_like(everything)
            return jax.lax.scan(stage, start, ends)[1]
        every = jax.lax.map(worth, jnp.asarray(_SHARES)[:, None] * everything)[1]
        score = every.mean(axis=0)
        mask = cut(everything, score, ends[0])
        rest = jax.lax.scan(stage, mask, ends[1:])[1]
        first = NestedPath(mask[None], score[None])
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, rest)

    return over_prompts(one, problem, total, valid)


def _worth(
    problem: Problem,
    total: Float[Array, "M L W D"],
    mask: Float[Array, " N"],
    objective: str,
    rule: GradientRule,
) -> tuple[Float[Array, ""], Float[Array, " N"]]:
    """Return the metric, or minus KL, and by how much each occurrence raises it to first order."""
    clean = last_logits(problem.model, problem.clean(), problem.prompt)

    def value(change: Array) -> Array:
        return objective_value(problem, clean, change, objective, rule)

    def under(delta: Array, total: Array) -> tuple[Array, Array]:
        change = problem.written(mask * delta) - total
        now, gradient = jax.value_and_grad(value)(change)
        return now, delta * problem.product(gradient)

    return mean_over_corruptions(under, problem.delta, total)
