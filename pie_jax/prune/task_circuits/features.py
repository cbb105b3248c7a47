"""The features of a task's seen prompts: which there are, and what prompts alone say of them.

A feature's worth is the sum over seen pairs of the magnitude of its scores there: of all
occurrences for a method that scores, of its kept set at K for one that chooses sets. (The magnitude
of their sum, in which they cancel, does worse on other pairs: docs/circuits.md.)

Shapes: U features, N occurrences, S budgets, B batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pie_jax.devices.mesh import fetch
from pie_jax.prune.batch.pairs import PairBatch
from pie_jax.prune.engine.corruptions import seen_and_held_out
from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.engine.selection import keep_top
from pie_jax.prune.options import PruneOptions
from pie_jax.prune.results.columns import Columns
from pie_jax.prune.results.tables import feature_keys, split_keys
from pie_jax.prune.step import Pruner


def alone(pruner: Pruner, batch: PairBatch, inputs: BatchEvaluator) -> dict[str, Columns]:
    """Return what `Pruner.measure` does for a seen batch, and its features that change."""
    found, _ = seen_and_held_out(inputs)
    occurrences = found.occurrences
    use = (fetch(found.problem.delta) != 0).any(axis=1) & occurrences.valid
    use[batch.real :] = False
    keys = feature_keys(occurrences.layer, occurrences.feature)[use]
    changing, place = np.unique(keys, return_inverse=True)
    active = np.bincount(place, occurrences.clean[use] > 0, len(changing)) > 0
    return {**pruner.measure(batch, inputs), "changing": {"key": changing, "active": active}}


class TaskFeatures:
    """The U features that a corruption changes on any seen prompt, in order of their keys.

    `active` [U] says which of them the clean run has. `parts` are what `alone` gives.
    """

    def __init__(self, parts: Sequence[dict[str, Columns]]):
        self._parts = parts
        changing = [part["changing"] for part in parts]
        keys = np.concatenate([one["key"] for one in changing])
        active = np.concatenate([one["active"] for one in changing])
        self.keys, place = np.unique(keys, return_inverse=True)
        self.active = np.bincount(place, active, len(self.keys)) > 0
        self.layer, self.feature = (part.astype(np.int32) for part in split_keys(self.keys))

    def slots(self, layer: np.ndarray, feature: np.ndarray) -> np.ndarray:
        """Return the place of each (layer, feature) among the U, -1 where it has none."""
        keys = feature_keys(layer, feature)
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[place] == keys, place, -1)

    def of(self, inputs: BatchEvaluator) -> np.ndarray:
        """Return the slot of every occurrence of a batch, [B, N]; -1 for padding."""
        found = inputs.occurrences
        return np.where(found.valid, self.slots(found.layer, found.feature), -1)

    def worth(self, name: str, options: PruneOptions, budget: int) -> np.ndarray:
        """Return the mean over seen pairs of a feature's summed score magnitudes, [U]."""
        total = np.zeros(len(self.keys))
        for part in self._parts:
            table = part["scores"]
            score = table.get(name)
            if score is None:
                chosen, index = part["selections"], options.methods.index(name)
                use = (chosen["method"] == index) & (chosen["budget"] == budget)
                table = {column: values[use] for column, values in chosen.items()}
                score = table["score"]
            slot = self.slots(table["layer"], table["feature"])
            total += np.bincount(slot[slot >= 0], np.abs(score[slot >= 0]), len(total))
        pairs = sum(len(np.unique(part["behaviour"]["prompt"])) for part in self._parts)
        return total / pairs

    def summed(self, name: str, options: PruneOptions) -> tuple[np.ndarray, np.ndarray]:
        """Return the circuits of the features worth most as masks [S, U], and their worths [S, U].

        Features of worth 0 are not kept.
        """
        worth = np.stack([self.worth(name, options, budget) for budget in options.budgets])
        mask = np.zeros(worth.shape, np.float32)
        for row, score, budget in zip(mask, worth, options.budgets, strict=True):
            kept = keep_top(score, self.layer, len(score), budget, options.scope_layers)
            row[kept[kept >= 0]] = 1.0
            row[score == 0] = 0.0
        return mask, worth
