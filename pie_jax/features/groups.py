"""The features of stages II and III: kept ones, and those they are compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pie_jax.errors import InputError
from pie_jax.features.baselines import KEPT, RANDOM, STRONGEST, random_features, strongest_features
from pie_jax.features.kept import kept_features
from pie_jax.features.records import FeatureKey
from pie_jax.prune.results.tables import PruneResult


@dataclass(frozen=True)
class Chosen:
    """Choice of the features that stages II and III are about.

    They are those that `method` keeps at `budget` (by default the run's first method at its middle
    budget), at most `features` of them (0: all), those kept in most prompts first, and `baselines`
    features in each group to compare with.
    """

    method: str | None = None
    budget: int | None = None
    features: int = 40
    baselines: int = 40
    seed: int = 0

    def check(self) -> None:
        """Raise `InputError` for a number that cannot be."""
        for name in ("features", "baselines", "seed"):
            if getattr(self, name) < 0:
                raise InputError(f"--{name} {getattr(self, name)}: it must be 0 or more.")

    @classmethod
    def of_record(cls, record: dict[str, Any]) -> Chosen:
        """Return the choice that a stage's record holds."""
        return cls(**{name: record[name] for name in cls.__dataclass_fields__})


def feature_groups(result: PruneResult, chosen: Chosen) -> dict[str, list[FeatureKey]]:
    """Return the features of each group, `kept` first; a feature may be in two groups."""
    chosen.check()
    kept = kept_features(result, chosen.method, chosen.budget)
    groups = {KEPT: kept[: chosen.features or None]}
    if chosen.baselines:
        groups[RANDOM] = random_features(result, kept, chosen.baselines, chosen.seed)
        groups[STRONGEST] = strongest_features(result, chosen.baselines)
    return groups


def union(groups: dict[str, list[FeatureKey]]) -> list[FeatureKey]:
    """Return every feature once, in the order of the groups."""
    return list(dict.fromkeys(key for keys in groups.values() for key in keys))
