"""Staged: grow the circuit from nothing, each stage by the gradient at the circuit so far.

A first-order score at the clean run (FAP) says what an occurrence does while everything else is
there. What a small circuit needs is what it does while nearly nothing is: at every stage the
gradient of -KL(clean || circuit) is taken at the current circuit, and the occurrences that lower
KL most, to first order and with their sign, are added. One path gives every budget.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pie_jax.mesh import fetch
from pie_jax.models.gradient_rules import GRADIENT_RULES, GradientRule
from pie_jax.prune.inputs import PruneInputs
from pie_jax.prune.methods.base import Method, Selection, with_scores
from pie_jax.prune.metrics import last_logits
from pie_jax.prune.passes import kl_at_last
from pie_jax.prune.problem import Problem, mean_over_corruptions, over_prompts
from pie_jax.prune.selection import NOBODY

_STAGES = 20


def stage_ends(budgets: tuple[int, ...], stages: int = _STAGES) -> list[int]:
    """Return how many occurrences are kept after each stage: every budget is one of them.

    Stages grow with the circuit: early choices decide what later gradients see.
    """
    most = max(budgets)
    grid = np.unique(np.rint(np.geomspace(1, most, min(stages, most))).astype(int))
    return sorted({*grid.tolist(), *budgets})


@partial(jax.jit, static_argnames="rule")
def gains(
    problem: Problem,
    total: Float[Array, "B M L W D"],
    kept: Int[Array, "B K"],
    rule: GradientRule,
) -> Float[Array, "B N"]:
    """Return by how much adding each occurrence to the circuit lowers KL, to first order, nats."""

    def one(problem: Problem, total: Array, kept: Array) -> Array:
        clean = last_logits(problem.model, problem.clean(), problem.prompt)

        def under(delta: Array, total: Array) -> Array:
            without = problem.removed(delta, kept)

            def negative_kl(change: Array) -> Array:
                return -kl_at_last(problem, clean, change - total - without, rule)

            gradient = jax.grad(negative_kl)(jnp.zeros_like(total))
            return delta * problem.product(gradient)

        return mean_over_corruptions(under, problem.delta, total)

    return over_prompts(one, problem, total, kept)


def select(inputs: PruneInputs, budgets: tuple[int, ...]) -> list[Selection]:
    """Grow one nested path a prompt and cut it at every budget."""
    occurrences = inputs.occurrences
    most = max(budgets)
    path = np.full((len(occurrences.count), most), NOBODY, np.int32)
    score = np.zeros(occurrences.layer.shape, np.float32)
    done = 0
    for end in stage_ends(budgets):
        gain = fetch(gains(inputs.problem, inputs.total, inputs.put(path), GRADIENT_RULES["full"]))
        for b, count in enumerate(occurrences.count):
            added = best_additions(gain[b, :count], path[b, :done], end - done)
            path[b, done : done + len(added)] = added
            score[b, added] = gain[b, added]
        done = end
    return [with_scores(path[:, :budget], score) for budget in budgets]


def best_additions(gain: np.ndarray, kept: np.ndarray, count: int) -> np.ndarray:
    """Return the `count` occurrences of the largest gain (signed) that are not kept yet."""
    open_ = gain.astype(np.float64).copy()
    open_[kept[kept != NOBODY]] = -np.inf
    order = np.argsort(-open_, kind="stable")[:count]
    return order[np.isfinite(open_[order])]


METHOD = Method("staged", "Grown from nothing by the gradient of KL at the circuit", select=select)
