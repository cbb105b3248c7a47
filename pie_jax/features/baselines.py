"""Baselines that explanations of kept features are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pie_jax.features.records import Explanation, FeatureKey
from pie_jax.features.samples import derangement
from pie_jax.prune.results.tables import PruneResult

KEPT, RANDOM, STRONGEST, SHUFFLED = "kept", "random", "top-activation", "shuffled"


@dataclass(frozen=True)
class Trial:
    """An explanation that is tried on feature `key`: its own, or another's where shuffled."""

    key: FeatureKey
    explanation: Explanation


def own(explanations: Sequence[Explanation]) -> list[Trial]:
    """Try each explanation on its own feature."""
    return [Trial(explanation.key, explanation) for explanation in explanations]


def shuffled(
    explanations: Sequence[Explanation], pool: Sequence[Explanation] = (), seed: int = 0
) -> list[Trial]:
    """Try on each feature another's explanation, drawn from all of them and from `pool`: the floor
    that a score has to beat.

    Features of one task resemble each other, and so may their texts: a pool of other active
    features makes a floor that is not about the task. Explanations without a text take no part.
    """
    own_keys = {explanation.key for explanation in explanations}
    others = [one for one in pool if one.key not in own_keys]
    usable = [one for one in (*explanations, *others) if one.text is not None]
    if len(usable) < 2:
        return []
    order = derangement(len(usable), np.random.default_rng(seed))
    trials = [Trial(usable[i].key, usable[other]) for i, other in enumerate(order)]
    return [trial for trial in trials if trial.key in own_keys]


def active_features(result: PruneResult) -> dict[FeatureKey, float]:
    """Return every feature that is active in a run, with its mean |clean activation|."""
    columns = [result.scores[name].to_numpy() for name in ("layer", "feature", "activation_clean")]
    places, inverse = np.unique(np.stack(columns[:2]), axis=1, return_inverse=True)
    inverse = inverse.reshape(-1)
    sums = np.bincount(inverse, np.abs(columns[2]), places.shape[1])
    means = sums / np.bincount(inverse, minlength=places.shape[1])
    return {
        FeatureKey(int(layer), int(feature)): float(mean)
        for layer, feature, mean in zip(*places, means, strict=True)
    }


def random_features(
    result: PruneResult, kept: Sequence[FeatureKey], count: int, seed: int = 0
) -> list[FeatureKey]:
    """Draw active features that are not kept, fewer than `count` if there are no more."""
    others = sorted(set(active_features(result)) - set(kept))
    order = np.random.default_rng(seed).permutation(len(others))[:count]
    return [others[i] for i in order]


def strongest_features(result: PruneResult, count: int) -> list[FeatureKey]:
    """Return the features of the largest mean |clean activation|, kept ones included."""
    means = active_features(result)
    return sorted(means, key=lambda key: (-means[key], key))[:count]
