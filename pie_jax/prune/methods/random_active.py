"""Random: a seeded random set of what is active on the clean prompt."""

import jax.numpy as jnp
import numpy as np

from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.engine.selection import Selection
from pie_jax.prune.engine.top_scores import top_selection
from pie_jax.prune.methods.base import Method
from pie_jax.prune.search.grow import largest
from pie_jax.prune.search.task_wide.search import TaskSearch


def select(inputs: BatchEvaluator, budgets: tuple[int, ...]) -> list[Selection]:
    """Keep the first K of one random order a prompt, so that larger budgets hold smaller ones."""
    occurrences = inputs.occurrences
    order = np.zeros(occurrences.clean.shape, np.float32)
    for b, count in enumerate(occurrences.count):
        order[b, :count] = 1.0 - inputs.generator(b, "random").random(count, dtype=np.float32)
    # What only the corrupted prompt activates comes last.
    order = np.where(occurrences.clean > 0, order, 0.0)
    return [top_selection(inputs, order, budget) for budget in budgets]


def task(search: TaskSearch) -> tuple[np.ndarray, np.ndarray]:
    """Keep the first K of one random order of the features that the clean run has."""
    drawn = np.random.default_rng([search.seed, *b"random"]).random(len(search.active))
    score = np.where(search.active, 1.0 - drawn, 0.0).astype(np.float32)
    masks = [np.asarray(largest(jnp.asarray(score), jnp.int32(k))) for k in search.budgets]
    return np.stack(masks), np.stack([score] * len(masks))


METHOD = Method("random", "Baseline: a random set of active features", select=select, task=task)
