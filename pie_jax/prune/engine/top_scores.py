"""Kept sets of the largest scores.

Shapes: B batch, N occurrences, K budget.
"""

from __future__ import annotations

import numpy as np

from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.engine.selection import Selection, keep_top, with_scores


def top_selections(
    inputs: BatchEvaluator, scores: np.ndarray, budgets: tuple[int, ...]
) -> list[Selection]:
    """Keep the K largest scores by magnitude in each prompt for every budget, ranked once where
    smaller sets are the beginnings of larger ones."""
    if inputs.options.scope_layers != "global":
        return [top_selection(inputs, scores, budget) for budget in budgets]
    widest = top_selection(inputs, scores, max(budgets))
    return [Selection(*(array[:, :budget] for array in widest)) for budget in budgets]


def top_selection(inputs: BatchEvaluator, scores: np.ndarray, budget: int) -> Selection:
    """Keep the K largest scores by magnitude in each prompt, in the scope asked for."""
    occurrences, scope = inputs.occurrences, inputs.options.scope_layers
    rows = zip(scores, occurrences.layer, occurrences.count.tolist(), strict=True)
    kept = np.stack([keep_top(*row, budget, scope) for row in rows])
    return with_scores(kept, scores)
