"""Random: a seeded random set of what is active on the clean prompt."""

import numpy as np

from pie_jax.prune.inputs import PruneInputs
from pie_jax.prune.methods.base import Method, Selection, top_selection


def select(inputs: PruneInputs, budgets: tuple[int, ...]) -> list[Selection]:
    """Keep the first K of one random order a prompt, so that larger budgets hold smaller ones."""
    occurrences = inputs.occurrences
    order = np.zeros(occurrences.clean.shape, np.float32)
    for b, count in enumerate(occurrences.count):
        order[b, :count] = 1.0 - inputs.generator(b, "random").random(count, dtype=np.float32)
    # What only the corrupted prompt activates comes last.
    order = np.where(occurrences.clean > 0, order, 0.0)
    return [top_selection(inputs, order, budget) for budget in budgets]


METHOD = Method("random", "Baseline: a random set of active features", select=select)
