"""Auto: for every prompt and budget the best of what growing, learning, FAP and RelP find.

Small circuits are found best by learning, started from the gains of occurrences along the whole
path from nothing; large ones by growing, where learning stalls; those that hold a good part of
everything by scores at the clean run. Growing and learning share the path. Exact KL decides, so
that `auto` is never worse than `fap` and `relp`. For a whole task, KL on held-out prompts decides.
"""

from __future__ import annotations

import numpy as np

from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.engine.selection import Selection
from pie_jax.prune.methods.base import Method
from pie_jax.prune.search.fallback import best_of, exact_kl
from pie_jax.prune.search.shared import Search
from pie_jax.prune.search.task_wide.search import TaskSearch


def select(inputs: BatchEvaluator, budgets: tuple[int, ...]) -> list[Selection]:
    """Return the better of the grown and the learned circuit for every budget, then exchanged, or
    that of FAP or RelP where it is better still."""
    search = Search(inputs, budgets, least=min(budgets), from_gains=True)
    circuits = search.exchanged(search.learned_from_gains())
    found = search.selections(circuits)
    return best_of(inputs, budgets, found, exact_kl(inputs, budgets, found, circuits))


def task(search: TaskSearch) -> tuple[np.ndarray, np.ndarray]:
    """Return the circuits of a whole task that do best on held-out prompts, and every feature's
    gain there."""
    mask = search.chosen()
    return mask, search.measured(mask)[1]


METHOD = Method(
    "auto", "The best by KL of what growing, learning, FAP and RelP find", select=select, task=task
)
