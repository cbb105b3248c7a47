"""Integrated gradients: FAP's product with the gradient averaged on a path from null to clean.

Scores of all occurrences sum to objective(clean) - objective(null) as the points grow in number
(Sundararajan et al. 2017, arXiv 1703.01365; for patching: arXiv 2403.17806).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pie_jax.devices.mesh import fetch
from pie_jax.devices.programs import program
from pie_jax.models.gradient_rules import GRADIENT_RULES, GradientRule
from pie_jax.prune.batch.metrics import last_logits
from pie_jax.prune.batch.problem import Problem, mean_over_corruptions, over_prompts
from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.engine.kl import objective_value
from pie_jax.prune.methods.base import Method


def path_points(points: int) -> np.ndarray:
    """Return the middles of equal parts of the path, 0 for nothing kept and 1 for the clean run."""
    return (np.arange(points, dtype=np.float32) + 0.5) / points


@program("objective", "rule")
def scores_at(
    problem: Problem,
    total: Float[Array, "B M L W D"],
    shares: Float[Array, " points"],
    objective: str,
    rule: GradientRule,
) -> Float[Array, "B N"]:
    """Return gradient x write x change, the gradient averaged over states of the prompt.

    A state keeps a share of every occurrence's change; the shares (0.0,) are the null, (1.0,) the
    clean run. `objective` is a metric's name, or `kl` for -KL(clean || state) in nats.
    """

    def one(problem: Problem, total: Array) -> Array:
        clean = last_logits(problem.model, problem.clean(), problem.prompt)

        def value(change: Array) -> Array:
            return objective_value(problem, clean, change, objective, rule)

        def under(delta: Array, total: Array) -> Array:
            def add(gradient: Array, share: Array) -> tuple[Array, None]:
                return gradient + jax.grad(value)((share - 1.0) * total), None

            gradient = jax.lax.scan(add, jnp.zeros_like(total), shares)[0] / shares.shape[0]
            return delta * problem.product(gradient)

        return mean_over_corruptions(under, problem.delta, total)

    return over_prompts(one, problem, total)


def scores(inputs: BatchEvaluator) -> np.ndarray:
    """Return the integrated gradient of every occurrence, [B, N], in the objective's units."""
    options = inputs.options.integrated
    objective = inputs.options.metric if options.objective == "metric" else options.objective
    shares = jnp.asarray(path_points(options.points))
    rule = GRADIENT_RULES[options.rule]
    return fetch(scores_at(inputs.problem, inputs.total, shares, objective, rule))


METHOD = Method(
    "integrated-gradients", "FAP's product, the gradient averaged from null to clean", scores=scores
)
