"""Staged: grow the circuit from nothing, each stage by the gradient at the circuit so far.

A first-order score at the clean run (FAP) says what an occurrence does while everything else is
there. What a small circuit needs is what it does while nearly nothing is: at every stage the
gradient of -KL(clean || circuit) is taken at the current circuit, and the occurrences that lower
KL most, to first order and with their sign, are added. One path gives every budget. Exchanges, if
asked for, then improve each budget's circuit alone.
"""

from __future__ import annotations

import numpy as np

from pie_jax.prune.inputs import PruneInputs
from pie_jax.prune.methods.base import Method, Selection
from pie_jax.prune.search.found import Search
from pie_jax.prune.search.task_search import TaskSearch


def select(inputs: PruneInputs, budgets: tuple[int, ...]) -> list[Selection]:
    """Grow one path a prompt and cut it at every budget."""
    search = Search(inputs, budgets)
    return search.selections(search.exchanged(search.grown))


def task(search: TaskSearch) -> tuple[np.ndarray, np.ndarray]:
    """Return circuits of a whole task, grown the same way, and every feature's gain there."""
    mask = search.grown()
    return mask, search.measured(mask)[1]


METHOD = Method(
    "staged", "Grown from nothing by the gradient of KL at the circuit", select=select, task=task
)
