"""FAP-HVP: FAP-Synergy with pair effects to second order, by Hessian-vector products.

One product of the Hessian with a partner's write gives its interaction with every occurrence at
once, where the exact scan runs the model once for each pair. Single effects stay exact.
"""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from pie_jax.devices.mesh import fetch
from pie_jax.devices.programs import program
from pie_jax.prune.batch.metrics import Metric
from pie_jax.prune.batch.problem import Problem, mean_over_corruptions, over_prompts
from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.engine.selection import PADDING, Selection, rank, with_scores
from pie_jax.prune.methods.base import Method
from pie_jax.prune.methods.fap import fap_scores
from pie_jax.prune.methods.fap_synergy import SynergyPlan, boosts, choose, plan, removal_sets
from pie_jax.prune.options import SynergyOptions


@program("metric")
def interactions(
    problem: Problem, partners: Int[Array, "B P"], metric: Metric
) -> Float[Array, "B P N"]:
    """Return eff({n, p}) - eff(n) - eff(p) to second order, in units of the metric.

    eff(S) is metric(clean) - metric(S removed). A partner of -1 is padding: its effect is 0.
    """

    def one(problem: Problem, partners: Array) -> Array:
        def value(change: Array) -> Array:
            return problem.value(metric, problem.run(change))

        def under(delta: Array) -> Float[Array, "P N"]:
            def with_all(partner: Array) -> Array:
                away = problem.removed(delta, partner[None])
                _, product = jax.jvp(jax.grad(value), (problem.no_change(),), (away,))
                return delta * problem.product(product)

            return jax.lax.map(with_all, partners)

        return mean_over_corruptions(under, problem.delta)

    return over_prompts(one, problem, partners)


def select(inputs: BatchEvaluator, budgets: tuple[int, ...]) -> list[Selection]:
    """Rerank the cut at every budget; the partners' products are computed once for all."""
    scores, options = fap_scores(inputs), inputs.options.synergy
    partners = np.full((len(scores), options.partners), PADDING, np.int32)
    for row, score, count in zip(partners, scores, inputs.occurrences.count, strict=True):
        first = rank(score, int(count))[: options.partners]
        row[: len(first)] = first
    pairs = fetch(interactions(inputs.problem, inputs.put(partners), inputs.metric))
    return [_select_one(inputs, scores, pairs, budget, options) for budget in budgets]


def _select_one(
    inputs: BatchEvaluator,
    scores: np.ndarray,
    pairs: np.ndarray,
    budget: int,
    options: SynergyOptions,
) -> Selection:
    counts = inputs.occurrences.count.tolist()
    plans = [
        plan(score, count, budget, options, inputs.generator(b, f"synergy-{budget}"))
        for b, (score, count) in enumerate(zip(scores, counts, strict=True))
    ]
    alone = options.boundary_cap + options.partners
    sets = np.stack([removal_sets(p, options)[:alone, :1] for p in plans])
    effects = inputs.removal_effects(sets)
    kept = [
        choose(p, boosts(p, _with_pairs(p, effect, pair, options), score, budget, options), budget)
        for p, effect, pair, score in zip(plans, effects, pairs, scores, strict=True)
    ]
    return with_scores(np.stack(kept), scores)


def _with_pairs(
    plan: SynergyPlan, alone: np.ndarray, pairs: np.ndarray, options: SynergyOptions
) -> np.ndarray:
    """Return effects in the order of `removal_sets`: those alone, then of every pair."""
    cap, met = options.boundary_cap, options.partners_per_candidate
    both = np.zeros((cap, met), np.float32)
    candidates, width = plan.pairs.shape
    if width:
        # Partners are the first of the core, so their place in the ranking is their row.
        together = pairs[plan.pairs, plan.boundary[:, None]]
        single = alone[:candidates, None] + alone[cap + plan.pairs]
        both[:candidates, :width] = single + together
    return np.concatenate([alone, both.ravel()])


METHOD = Method(
    "fap-hvp", "FAP-Synergy with pair effects by Hessian-vector products", select=select
)
