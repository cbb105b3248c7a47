"""FAP-Synergy: rerank the candidates around the cut by what they do together with the core.

Source: PIE, arXiv 2604.16889. One batched pass measures the exact effect of removing every
candidate, every partner, and every pair (candidate, partner).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.engine.selection import PADDING, Selection, pad, rank, with_scores
from pie_jax.prune.methods.base import Method
from pie_jax.prune.methods.fap import fap_scores
from pie_jax.prune.options import SynergyOptions

_TINY = 1e-12


@dataclass(frozen=True)
class SynergyPlan:
    """What is settled and what is open at one budget, for one prompt.

    `order` all occurrences by |score|; `core` kept in any case; `boundary` [C] the candidates;
    `partners` [P] members of the core; `pairs` [C, Q] which partners each candidate meets,
    as indices into `partners`.
    """

    order: np.ndarray
    core: np.ndarray
    boundary: np.ndarray
    partners: np.ndarray
    pairs: np.ndarray


def plan(
    score: np.ndarray, count: int, budget: int, options: SynergyOptions, rng: np.random.Generator
) -> SynergyPlan:
    """Split one prompt's occurrences into core, boundary and partners."""
    order = rank(score, count)
    half = round(options.boundary_percent / 100 * budget * 0.5)
    core = order[: max(budget - half, 0)]
    boundary = order[len(core) : budget + half][: options.boundary_cap]
    partners = core[: options.partners]
    met = min(options.partners_per_candidate, len(partners))
    draws = [rng.permutation(len(partners))[:met] for _ in boundary]
    pairs = np.array(draws, np.int64).reshape(len(boundary), met)
    return SynergyPlan(order, core, boundary, partners, pairs)


def removal_sets(plan: SynergyPlan, options: SynergyOptions) -> np.ndarray:
    """Return what to remove: candidates, then partners, then pairs, [S, 2] padded with -1.

    S depends on the options alone, so that no prompt recompiles.
    """
    cap, partners, met = options.boundary_cap, options.partners, options.partners_per_candidate
    sets = np.full((cap + partners + cap * met, 2), PADDING, np.int32)
    sets[: len(plan.boundary), 0] = plan.boundary
    sets[cap : cap + len(plan.partners), 0] = plan.partners
    pairs = sets[cap + partners :].reshape(cap, met, 2)
    candidates, width = plan.pairs.shape
    pairs[:candidates, :width, 0] = plan.boundary[:, None]
    pairs[:candidates, :width, 1] = plan.partners[plan.pairs]
    return sets


def boosts(
    plan: SynergyPlan, effects: np.ndarray, score: np.ndarray, budget: int, options: SynergyOptions
) -> np.ndarray:
    """Return the boost of each candidate, [C], from the effects [S] of `removal_sets`."""
    cap, partners, met = options.boundary_cap, options.partners, options.partners_per_candidate
    candidates, width = plan.pairs.shape
    alone = effects[:candidates]
    partner = effects[cap : cap + len(plan.partners)]
    both = effects[cap + partners :].reshape(cap, met)[:candidates, :width]
    met_alone = partner[plan.pairs] if width else np.zeros((candidates, 0), np.float32)
    synergy = both - alone[:, None] - met_alone
    counts = (alone[:, None] > 0) & (met_alone > 0)
    middle = np.array(
        [
            np.median(row[use]) if use.any() else 0.0
            for row, use in zip(synergy, counts, strict=True)
        ]
    )
    top = np.abs(score[plan.order[:budget]])
    # Sorted already; the published code takes the lower of two middle scores.
    usual_score = top[len(top) // 2] if len(top) else 0.0
    usual_effect = np.median(np.abs(partner)) if len(partner) else 0.0
    own = np.abs(score[plan.boundary]) / max(usual_score, _TINY)
    return own + options.weight * np.maximum(middle, 0.0) / max(usual_effect, _TINY)


def choose(plan: SynergyPlan, boost: np.ndarray, budget: int) -> np.ndarray:
    """Return the kept set [K]: the core, then the candidates by boost, then by |score|."""
    places = max(budget - len(plan.core), 0)
    best = plan.boundary[np.argsort(-boost, kind="stable")][:places]
    kept = np.concatenate([plan.core, best])
    rest = plan.order[~np.isin(plan.order, kept)][: budget - len(kept)]
    return pad(np.concatenate([kept, rest]), budget)


def select(inputs: BatchEvaluator, budgets: tuple[int, ...]) -> list[Selection]:
    """Rerank the cut at every budget; the effects of all budgets are measured together.

    Only pairs of which both members lower the metric alone are measured: no other counts.
    """
    scores, options = fap_scores(inputs), inputs.options.synergy
    counts = inputs.occurrences.count.tolist()
    plans = [
        [
            plan(score, count, budget, options, inputs.generator(b, f"synergy-{budget}"))
            for b, (score, count) in enumerate(zip(scores, counts, strict=True))
        ]
        for budget in budgets
    ]
    sets = [np.stack([removal_sets(p, options) for p in of_budget]) for of_budget in plans]
    effects = _effects(inputs, sets, options)
    selections = []
    for budget, of_budget, found in zip(budgets, plans, effects, strict=True):
        kept = [
            choose(p, boosts(p, effect, score, budget, options), budget)
            for p, effect, score in zip(of_budget, found, scores, strict=True)
        ]
        selections.append(with_scores(np.stack(kept), scores))
    return selections


def _effects(
    inputs: BatchEvaluator, sets: list[np.ndarray], options: SynergyOptions
) -> list[np.ndarray]:
    """Return the effects [B, S] of every budget's sets; 0 for pairs that do not count."""
    alone = options.boundary_cap + options.partners
    single = inputs.removal_effects(np.concatenate([s[:, :alone] for s in sets], axis=1))
    singles = np.split(single, len(sets), axis=1)
    counting = [_counting(s, e, options) for s, e in zip(sets, singles, strict=True)]
    together = inputs.removal_effects(np.concatenate(counting, axis=1))
    both = np.split(together, len(sets), axis=1)
    return [np.concatenate(found, axis=1) for found in zip(singles, both, strict=True)]


def _counting(sets: np.ndarray, single: np.ndarray, options: SynergyOptions) -> np.ndarray:
    """Return one budget's pairs [B, pairs, 2], with padding in place of those that do not count."""
    cap, alone = options.boundary_cap, options.boundary_cap + options.partners
    lowers: list[set[int]] = [
        set(own[effect > 0].tolist())
        for own, effect in zip(sets[:, :alone, 0], single, strict=True)
    ]
    pairs = sets[:, alone:].copy()
    for of_prompt, positive in zip(pairs, lowers, strict=True):
        of_prompt[~np.isin(of_prompt, list(positive)).all(axis=1)] = PADDING
    assert pairs.shape[1] == cap * options.partners_per_candidate
    return pairs


METHOD = Method("fap-synergy", "FAP, reranked around the cut by exact pair effects", select=select)
