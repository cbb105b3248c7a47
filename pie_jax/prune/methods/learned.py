"""Learned: the mask of exactly K occurrences by gradient descent on KL (straight-through).

It starts from the grown circuit and keeps the best circuit seen, so it is never worse than that.
After subnetwork probing (Cao et al. 2021, arXiv 2104.03514) and Edge Pruning (arXiv 2406.16778).
"""

from __future__ import annotations

import numpy as np

from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.engine.selection import Selection
from pie_jax.prune.methods.base import Method
from pie_jax.prune.search.shared import Search
from pie_jax.prune.search.task_wide.search import TaskSearch


def select(inputs: BatchEvaluator, budgets: tuple[int, ...]) -> list[Selection]:
    """Return the best circuit that learning from the grown one saw, for every budget."""
    search = Search(inputs, budgets)
    return search.selections(search.learned_from_grown())


def task(search: TaskSearch) -> tuple[np.ndarray, np.ndarray]:
    """Return circuits of a whole task, learned the same way, and every feature's gain there."""
    mask = search.learned(warm=True)
    return mask, search.measured(mask)[1]


METHOD = Method(
    "learned", "A mask of exactly K, learned on KL from staged's circuit", select=select, task=task
)
