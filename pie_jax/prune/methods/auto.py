"""Auto: for every prompt and budget the best circuit that is found, by exact KL.

Small circuits are found best by learning, middle ones by growing, and those that hold a good part
of everything by scores at the clean run, or by completing a smaller circuit with them. Budgets
follow one another from the smallest up, so that each has what the one before found. FAP's and
RelP's circuits are among those measured: `auto` is never worse than they are. For a whole task, KL
on held-out prompts decides.
"""

from __future__ import annotations

import numpy as np

from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.engine.selection import Selection
from pie_jax.prune.methods.base import Method
from pie_jax.prune.search.climb import climb
from pie_jax.prune.search.fallback import best_of, exact_kl
from pie_jax.prune.search.shared import Search
from pie_jax.prune.search.task_wide.search import TaskSearch


def select(inputs: BatchEvaluator, budgets: tuple[int, ...]) -> list[Selection]:
    """Return the best circuit found for every budget, then exchanged."""
    search = Search(inputs, budgets, least=min(budgets), from_gains=True)
    circuits = search.exchanged(climb(search))
    found = search.selections(circuits)
    if search.complete and inputs.options.scope_layers == "global":
        return found
    # FAP and RelP have circuits that the search did not see.
    return best_of(inputs, budgets, found, exact_kl(inputs, budgets, found, circuits))


def task(search: TaskSearch) -> tuple[np.ndarray, np.ndarray]:
    """Return the circuits of a whole task that do best on held-out prompts, and every feature's
    gain there."""
    mask = search.chosen()
    return mask, search.measured(mask)[1]


METHOD = Method(
    "auto", "The best by KL of what growing, learning, FAP and RelP find", select=select, task=task
)
