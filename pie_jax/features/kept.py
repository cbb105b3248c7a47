"""The features that a pruning run has kept, for stages II and III."""

from __future__ import annotations

import numpy as np

from pie_jax.errors import InputError
from pie_jax.features.records import FeatureKey
from pie_jax.prune.results.tables import PruneResult


def kept_features(
    result: PruneResult, method: str | None = None, budget: int | None = None
) -> list[FeatureKey]:
    """Return the features that a method keeps at a budget, those of most prompts first.

    The default is the run's first method, and the middle one of its budgets (the lower of two).
    Raises `InputError` for a method or budget that the run does not have.
    """
    method, budget = method_and_budget(result, method, budget)
    columns = {
        name: np.asarray(result.features[name].to_numpy(zero_copy_only=False))
        for name in ("method", "budget", "layer", "feature", "prompts_kept", "mean_abs_score")
    }
    of_method = columns["method"] == method
    rows = np.flatnonzero(of_method & (columns["budget"] == budget))
    order = np.lexsort(
        (
            columns["feature"][rows],
            columns["layer"][rows],
            -columns["mean_abs_score"][rows],
            -columns["prompts_kept"][rows].astype(np.int64),
        )
    )
    return [
        FeatureKey(int(columns["layer"][row]), int(columns["feature"][row])) for row in rows[order]
    ]


def method_and_budget(
    result: PruneResult, method: str | None = None, budget: int | None = None
) -> tuple[str, int]:
    """Return a method and budget of the run, the ones given or the defaults of `kept_features`."""
    found, sizes = (result.features[name].to_pylist() for name in ("method", "budget"))
    methods = result.record.get("config", {}).get("methods") or list(dict.fromkeys(found))
    method = method or methods[0]
    if method not in methods:
        raise InputError(f"--method `{method}` is not in this run; it has {', '.join(methods)}.")
    budgets = sorted({size for name, size in zip(found, sizes, strict=True) if name == method})
    if not budgets:
        raise InputError(f"--method `{method}` has kept no feature in this run; name another one.")
    budget = budgets[(len(budgets) - 1) // 2] if budget is None else budget
    if budget not in budgets:
        known = ", ".join(map(str, budgets))
        raise InputError(f"--budget {budget} is not in this run; it has {known}.")
    return method, budget
