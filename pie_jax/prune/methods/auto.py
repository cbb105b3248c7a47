"""Auto: for every prompt and budget the best of what growing and learning find, by exact KL.

Small circuits are found best by learning from what occurrences are worth on the whole path from
nothing; large ones by growing, where learning stalls. Both share the path, and exact KL decides.
For a whole task it is KL on prompts kept aside.
"""

from __future__ import annotations

import numpy as np

from pie_jax.prune.inputs import PruneInputs
from pie_jax.prune.methods.base import Method
from pie_jax.prune.search.found import Search
from pie_jax.prune.search.task_search import TaskSearch
from pie_jax.prune.selection import Selection


def select(inputs: PruneInputs, budgets: tuple[int, ...]) -> list[Selection]:
    """Return the better of the grown and the learned circuit for every budget, then exchanged."""
    search = Search(inputs, budgets, least=min(budgets), from_worth=True)
    return search.selections(search.exchanged(search.learned_from_worth()))


def task(search: TaskSearch) -> tuple[np.ndarray, np.ndarray]:
    """Return the circuits of a whole task that do best on prompts kept aside, and every feature's
    gain there."""
    mask = search.chosen()
    return mask, search.measured(mask)[1]


METHOD = Method(
    "auto", "The best by KL of what growing and learning find", select=select, task=task
)
