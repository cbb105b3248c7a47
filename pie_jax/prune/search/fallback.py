"""Circuits of the cheap gradient scores among all occurrences, where a search saw only some.

Shapes: B batch, S budgets, K the largest budget.
"""

from __future__ import annotations

import numpy as np

from pie_jax.devices.mesh import fetch
from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.engine.selection import PADDING, Selection
from pie_jax.prune.engine.top_scores import top_selections
from pie_jax.prune.search.circuits import Circuits

# FAP and RelP: one gradient each.
RULES = ("frozen", "relp")


def best_of(
    inputs: BatchEvaluator, budgets: tuple[int, ...], found: list[Selection], kl: np.ndarray
) -> list[Selection]:
    """Return for every prompt and budget the kept set of the least exact KL: the one `found`, whose
    `kl` is [B, S] in nats, or that of a gradient score; of equal ones, the one found."""
    choices = [found]
    for rule in RULES:
        choices.append(top_selections(inputs, inputs.attribution(rule), budgets))
    scored = inputs.kl_last(_stacked([one for choice in choices[1:] for one in choice], budgets))
    every = np.concatenate([kl, scored], axis=1)
    best = every.reshape(len(kl), len(choices), len(budgets)).argmin(axis=1)
    return [_picked([choice[s] for choice in choices], best[:, s]) for s in range(len(budgets))]


def exact_kl(
    inputs: BatchEvaluator, budgets: tuple[int, ...], found: list[Selection], circuits: Circuits
) -> np.ndarray:
    """Return the KL of kept sets [B, S] in nats: the circuits' own, measured again where a kept set
    holds more than its circuit."""
    kl, members = fetch(circuits.kl), fetch(circuits.members)
    held = np.stack([(one.kept != PADDING).sum(axis=1) for one in found], axis=1)
    if (held == (members >= 0).sum(axis=2)).all():
        return kl
    return inputs.kl_last(_stacked(found, budgets))


def _stacked(selections: list[Selection], budgets: tuple[int, ...]) -> np.ndarray:
    """Return the kept sets of all selections as one array [B, S, K]."""
    most = max(budgets)
    kept = [one.kept for one in selections]
    wide = [np.pad(k, ((0, 0), (0, most - k.shape[1])), constant_values=PADDING) for k in kept]
    return np.stack(wide, axis=1)


def _picked(choices: list[Selection], best: np.ndarray) -> Selection:
    """Return for each prompt the row of the choice that is best for it."""
    rows = np.arange(len(best))
    kept = np.stack([one.kept for one in choices])[best, rows]
    score = np.stack([one.score for one in choices])[best, rows]
    return Selection(kept, score)
