"""The interface of a pruning method: scores for every occurrence, or a kept set for a budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.engine.selection import Selection
from pie_jax.prune.engine.top_scores import top_selections

if TYPE_CHECKING:
    from pie_jax.prune.search.task_wide.search import TaskSearch


@dataclass(frozen=True)
class Method:
    """A way to choose occurrences.

    A scoring method gives `scores(inputs) -> [B, N]`, of which the K largest by magnitude are
    kept. Any other gives `select(inputs, budgets) -> one Selection a budget`.

    For a whole task, scores of single prompts are summed by feature; a method that searches over
    all prompts instead gives `task(search) -> masks [S, U], scores [S, U]` for S budgets.
    """

    name: str
    description: str
    scores: Callable[[BatchEvaluator], np.ndarray] | None = None
    select: Callable[[BatchEvaluator, tuple[int, ...]], list[Selection]] | None = None
    task: Callable[[TaskSearch], tuple[np.ndarray, np.ndarray]] | None = None


def run_method(
    method: Method,
    inputs: BatchEvaluator,
    budgets: tuple[int, ...],
    scores: np.ndarray | None = None,
) -> list[Selection]:
    """Return the kept sets of a method for every budget; its `scores` [B, N] if they are known."""
    if method.select is not None:
        return method.select(inputs, budgets)
    if scores is None:
        assert method.scores is not None
        scores = method.scores(inputs)
    return top_selections(inputs, scores, budgets)
