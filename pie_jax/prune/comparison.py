"""Finished runs beside each other, as tables and one chart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup
from rich.table import Table

from pie_jax.errors import InputError
from pie_jax.prune.folder import load_result
from pie_jax.prune.measures import (
    area,
    by_prompt,
    compression,
    faithfulness_areas,
    paired_difference,
    size_for,
    stability,
    unique_features,
)
from pie_jax.prune.results import PruneResult
from pie_jax.prune.statistics import Mean, bootstrap_mean
from pie_jax.report.line_chart import Series, line_chart

Runs = dict[str, PruneResult]


def load_runs(folders: Sequence[Path], baseline: str) -> Runs:
    """Read runs by their folders' names. Raises `InputError` where one is no run, is named twice or
    lacks the baseline."""
    runs: Runs = {}
    for folder in folders:
        if str(folder) in runs:
            raise InputError(f"{folder}: is named twice; name each run once.")
        runs[str(folder)] = load_result(folder)
        if baseline not in methods(runs[str(folder)]):
            known = ", ".join(methods(runs[str(folder)]))
            raise InputError(f"--baseline: `{baseline}` is not in {folder}; it has {known}.")
    return runs


def methods(result: PruneResult) -> list[str]:
    """Return the methods of a run in its order."""
    return list(dict.fromkeys(result.behaviour["method"].to_pylist()))


def kl_rows(runs: Runs, baseline: str) -> Iterator[tuple[str, Table]]:
    """Yield for every run its mean KL by method and budget, and what the numbers stand for."""
    for name, result in runs.items():
        summary = result.summary()
        budgets = sorted({budget for row in summary.values() for budget in row})
        table = Table("method", *(f"K = {budget}" for budget in budgets))
        for method, row in summary.items():
            table.add_row(method, *(_words(row.get(budget)) for budget in budgets))
        config = result.record.get("config", {})
        judged = config.get("judge_corruptions", "same")
        title = f"{name}: KL(clean || circuit) at the last position, nats; judged on {judged} "
        yield title + f"corruptions ({config.get('corruption', 'corrupted-prompt')})", table


def area_table(runs: Runs, baseline: str) -> tuple[str, Table]:
    """Return the measures over all budgets: areas, paired differences, sizes at equal KL."""
    table = Table(
        "run", "method", "area", f"area - {baseline}", "CPR", "CMD", "K for its last KL",
        "x random", "unique",
    )  # fmt: skip
    for name, result in runs.items():
        budgets, base = by_prompt(result, baseline, "kl_last")
        counts = occurrence_counts(result)
        level, last = float(base[:, -1].mean()), int(budgets[-1])
        for method in methods(result):
            _, values = by_prompt(result, method, "kl_last")
            _, faithful = by_prompt(result, method, "faithfulness")
            cpr, cmd = faithfulness_areas(budgets, counts, faithful)
            own = area(budgets, values)
            size, factor = (
                size_for(budgets, values.mean(0), level),
                compression(result, method)[last],
            )
            table.add_row(
                name, method, _words(bootstrap_mean(own)),
                _words(paired_difference(own, area(budgets, base))),
                _words(bootstrap_mean(cpr)), _words(bootstrap_mean(cmd)),
                _number(size), _number(factor), str(unique_features(result, method, last)),
            )  # fmt: skip
    title = (
        f"area: mean KL over log K; K at which the mean KL reaches {baseline}'s at the largest K; "
        "how many times larger a random set of equal KL is, and unique features, at the largest K"
    )
    return title, table


def stability_table(runs: Runs) -> tuple[str, Table]:
    """Return the Jaccard index between the first run's kept sets and every other run's."""
    (first, result), *others = runs.items()
    budgets = sorted(set(result.behaviour["budget"].to_pylist()))
    table = Table("run", "method", *(f"K = {budget}" for budget in budgets))
    for name, other in others:
        for method in methods(result):
            values = [_words(stability(result, other, method, budget)) for budget in budgets]
            table.add_row(name, method, *values)
    return f"Jaccard index of kept sets with {first}", table


def chart(runs: Runs) -> Markup:
    """Return KL against K, one line a method and run, as SVG."""
    series: list[Series] = []
    for name, result in runs.items():
        for method, row in result.summary().items():
            points = [(budget, mean) for budget, mean in row.items() if mean is not None]
            label = method if len(runs) == 1 else f"{method}, {name}"
            series.append(Series(label, len(series), points))
    return line_chart(series, None, x_label="K", y_label="KL, nats")


def occurrence_counts(result: PruneResult) -> np.ndarray:
    """Return how many occurrences each prompt has, in order of the prompts."""
    return np.unique(result.scores["prompt"].to_numpy(), return_counts=True)[1]


def _words(mean: Mean | None) -> str:
    return "–" if mean is None else f"{mean.mean:.3f} [{mean.low:.2f}, {mean.high:.2f}]"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
