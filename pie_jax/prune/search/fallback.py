"""Circuits of the cheap gradient scores, where they do better than what a search found.

A search looks among some candidates and learns from first-order gains, which fails where a circuit
holds a good part of everything. Scores at the clean run are at their best there.

Shapes: B batch, S budgets, K the largest budget.
"""

from __future__ import annotations

import numpy as np

from pie_jax.prune.inputs import PruneInputs
from pie_jax.prune.methods.base import top_selection
from pie_jax.prune.selection import NOBODY, Selection

# FAP and RelP: one gradient each.
_RULES = ("frozen", "relp")


def best_of(
    inputs: PruneInputs, budgets: tuple[int, ...], found: list[Selection]
) -> list[Selection]:
    """Return for every prompt and budget the kept set of the least exact KL: the one `found`, or
    that of a gradient score; of equal ones, the one found."""
    scored = [
        [top_selection(inputs, inputs.attribution(rule), budget) for budget in budgets]
        for rule in _RULES
    ]
    choices = [found, *scored]
    kl = inputs.kl_last(_stacked([one for choice in choices for one in choice], max(budgets)))
    best = kl.reshape(len(kl), len(choices), len(budgets)).argmin(axis=1)
    return [_picked([choice[s] for choice in choices], best[:, s]) for s in range(len(budgets))]


def _stacked(selections: list[Selection], most: int) -> np.ndarray:
    """Return the kept sets of all selections as one array [B, S, K]."""
    kept = [one.kept for one in selections]
    wide = [np.pad(k, ((0, 0), (0, most - k.shape[1])), constant_values=NOBODY) for k in kept]
    return np.stack(wide, axis=1)


def _picked(choices: list[Selection], best: np.ndarray) -> Selection:
    """Return for each prompt the row of the choice that is best for it."""
    rows = np.arange(len(best))
    kept = np.stack([one.kept for one in choices])[best, rows]
    score = np.stack([one.score for one in choices])[best, rows]
    return Selection(kept, score)
