"""The numbers of a case of `benchmarks.circuits`, for JSON and tables; undefined is None."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.parts.circuit_cases import BASELINE
from pie_jax.intervals import bootstrap_mean, bootstrap_ratio
from pie_jax.prune.results.compare import methods, occurrence_counts
from pie_jax.prune.results.measures import (
    area,
    by_prompt,
    compression,
    faithfulness_areas,
    kl_ratios,
    overlap,
    sizes_for_baseline,
    stability,
)
from pie_jax.prune.results.tables import PruneResult

# From one size of random sets to the next.
_STEP = 1.25


def random_sizes(result: PruneResult) -> tuple[int, ...]:
    """Return sizes of random sets that are to reach the methods' KL: a run's budgets, and on up to
    the most occurrences of a prompt."""
    budgets = sorted(set(result.behaviour["budget"].to_pylist()))
    most = occurrence_counts(result).max()
    while budgets[-1] * _STEP < most:
        budgets.append(int(np.ceil(budgets[-1] * _STEP)))
    return tuple(budgets)


def figures(result: PruneResult, random: PruneResult) -> dict[str, Any]:
    """Return what a run measures of every method, by budget or over all.

    `random` is a run of random sets of `random_sizes`.
    """
    names = methods(result)

    def each(measure: Callable[[str], dict[int, Any]]) -> dict[str, Any]:
        return {name: _plain(measure(name)) for name in names}

    measured = ("kl_last", "kl_zero", "completeness")
    return {
        "pairs": len(result.behaviour["prompt"].unique()),
        "null": _plain(result.null()),
        **{measure: _plain(result.summary(measure)) for measure in measured},
        "kl_ratio": each(lambda name: kl_ratios(result, name, BASELINE)),
        "size_ratio": each(lambda name: sizes_for_baseline(result, name, BASELINE)),
        "overlap": each(
            lambda name: {k: overlap(result, name, BASELINE, k) for k in _budgets(result)}
        ),
        "compression": each(lambda name: compression(result, name, random)),
        "areas": {name: _areas(result, name) for name in names},
    }


def _areas(result: PruneResult, method: str) -> dict[str, Any]:
    budgets, values = by_prompt(result, method, "kl_last")
    _, base = by_prompt(result, BASELINE, "kl_last")
    _, faithful = by_prompt(result, method, "faithfulness")
    own = area(budgets, values)
    cpr, cmd = faithfulness_areas(budgets, occurrence_counts(result), faithful)
    found = {
        "area": bootstrap_mean(own),
        "ratio": bootstrap_ratio(own, area(budgets, base)),
        "cpr": bootstrap_mean(cpr),
        "cmd": bootstrap_mean(cmd),
    }
    return _plain(found)


def stabilities(result: PruneResult, other: PruneResult) -> dict[str, Any]:
    """Return the mean Jaccard index of the sets that two runs keep, by method and budget."""
    budgets = _budgets(result)
    return {
        name: {budget: _plain(stability(result, other, name, budget)) for budget in budgets}
        for name in methods(result)
    }


def _budgets(result: PruneResult) -> list[int]:
    return sorted(set(result.behaviour["budget"].to_pylist()))


def _plain(value: Any) -> Any:
    """Return named tuples as dicts, inside of dicts too."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return value._asdict() if hasattr(value, "_asdict") else value
