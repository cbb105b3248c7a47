"""Finished runs side by side, as tables and one chart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from rich.table import Table

from pie_jax.charts.line_chart import Series, line_chart
from pie_jax.errors import InputError
from pie_jax.intervals import Mean, bootstrap_mean, bootstrap_ratio
from pie_jax.prune.results.measures import (
    CircuitSize,
    against_target,
    area,
    by_prompt,
    compression,
    faithfulness_areas,
    kl_ratios,
    paired_difference,
    sizes_for_baseline,
    stability,
    unique_features,
)
from pie_jax.prune.results.resumable_folder import load_result
from pie_jax.prune.results.tables import PruneResult

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


def run_tables(runs: Runs, baseline: str) -> Iterator[tuple[str, Table]]:
    """Yield for every run a table a measure, by method and budget, one over all budgets, and what
    each stands for."""
    for name, result in runs.items():
        budgets = sorted(set(result.behaviour["budget"].to_pylist()))
        for measure in _measures(result, baseline):
            table = Table("method", *(f"K = {budget}" for budget in budgets))
            for method, values in measure.values.items():
                table.add_row(method, *(measure.words(values[budget]) for budget in budgets))
            yield f"{name}: {measure.title}", table
        title = f"area: mean KL over log K, and beside {baseline}'s; unique: at K = {budgets[-1]}"
        yield f"{name}: {title}", _areas(result, baseline)


class _Measure(NamedTuple):
    """A measure by method and budget, and how a value of it reads."""

    name: str
    title: str
    values: dict[str, dict[int, Any]]
    words: Callable[[Any], str]


def _measures(result: PruneResult, baseline: str) -> Iterator[_Measure]:
    """Yield the measures that a run has."""
    names, config = methods(result), result.record.get("config", {})
    kind = config.get("corruption", "corrupted-prompt")
    judged = f"judged on {config.get('judge_corruptions', 'same')} corruptions ({kind})"
    of_all = partial(_words, of=len(result.behaviour["prompt"].unique()))
    title = f"KL(clean || circuit) at the last position, nats; {judged}"
    yield _Measure("kl", title, result.summary("kl_last"), of_all)
    title, ratios = f"mean KL divided by {baseline}'s", {}
    for name in names:
        ratios[name] = kl_ratios(result, name, baseline)
    yield _Measure("kl-ratio", title, ratios, _words)
    title = f"features that reach {baseline}'s KL at K, divided by K"
    sizes = {name: sizes_for_baseline(result, name, baseline) for name in names}
    yield _Measure("size-ratio", title, sizes, _size)
    if "random" in names:
        title = "how many times more features a random active set of equal KL has"
        yield _Measure("compression", title, {n: compression(result, n) for n in names}, _size)
    title = "completeness: the share of the behaviour that is left without the circuit"
    yield _Measure("completeness", title, result.summary("completeness"), of_all)
    if "fap" in result.scores.schema.names:
        title = "share of the kept effect that pulls against the target, by FAP's scores"
        against = {name: against_target(result, name) for name in names}
        yield _Measure("against", title, against, of_all)
    if has_kl_zero(result):
        title = "KL with what is not kept at zero activation, nats"
        yield _Measure("kl-zero", title, result.summary("kl_zero"), of_all)


def has_kl_zero(result: PruneResult) -> bool:
    """Return whether a run measured `kl_zero`."""
    table = result.behaviour
    return "kl_zero" in table.schema.names and table["kl_zero"].null_count < len(table)


_AREAS = ("area", "difference", "ratio", "CPR", "CMD")


def _areas(result: PruneResult, baseline: str) -> Table:
    """Return the measures over all budgets: areas, and what sets them beside the baseline's."""
    table = Table("method", *_AREAS, "unique")
    prompts = len(result.behaviour["prompt"].unique())
    for method, means, unique in _area_values(result, baseline):
        table.add_row(method, *(_words(mean, prompts) for mean in means), str(unique))
    return table


def _area_values(
    result: PruneResult, baseline: str
) -> Iterator[tuple[str, tuple[Mean | None, ...], int]]:
    """Yield each method, its values in the order of `_AREAS`, and how many features it keeps."""
    budgets, base = by_prompt(result, baseline, "kl_last")
    counts = occurrence_counts(result)
    last, beside = int(budgets[-1]), area(budgets, base)
    for method in methods(result):
        _, values = by_prompt(result, method, "kl_last")
        _, faithful = by_prompt(result, method, "faithfulness")
        own = area(budgets, values)
        means = (
            bootstrap_mean(own),
            paired_difference(own, beside),
            bootstrap_ratio(own, beside),
            *map(bootstrap_mean, faithfulness_areas(budgets, counts, faithful)),
        )
        yield method, means, unique_features(result, method, last)


def comparison_rows(runs: Runs, baseline: str) -> list[dict[str, Any]]:
    """Return what all tables show as rows of run, measure, method, budget, value, low, high, n.

    What is undefined is None; `bound` is `≤` or `>` where the budgets only bound a value.
    """
    rows = []
    for run, result in runs.items():
        for measure in _measures(result, baseline):
            for method, values in measure.values.items():
                for budget, value in values.items():
                    rows.append(_row(run, measure.name, method, budget, value))
        last = int(max(result.behaviour["budget"].to_pylist()))
        for method, means, unique in _area_values(result, baseline):
            for name, mean in zip(_AREAS, means, strict=True):
                rows.append(_row(run, name.lower(), method, None, mean))
            rows.append(_row(run, "unique", method, last, CircuitSize(unique)))
    for run, method, values in _stabilities(runs):
        rows += [_row(run, "jaccard", method, budget, mean) for budget, mean in values.items()]
    return rows


def _row(
    run: str, measure: str, method: str, budget: int | None, value: Mean | CircuitSize | None
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "run": run,
        "measure": measure,
        "method": method,
        "budget": budget,
        "value": None,
    }
    row |= dict.fromkeys(("low", "high", "n", "bound"))
    if isinstance(value, CircuitSize):
        return row | {"value": value.value, "bound": value.bound or None}
    if value is not None:
        row |= {"value": value.mean, "n": value.n}
        if value.n > 1:  # one value has no interval
            row |= {"low": value.low, "high": value.high}
    return row


def stability_table(runs: Runs) -> tuple[str, Table]:
    """Return the Jaccard index between the first run's kept sets and every other run's."""
    first, result = next(iter(runs.items()))
    budgets = sorted(set(result.behaviour["budget"].to_pylist()))
    table = Table("run", "method", *(f"K = {budget}" for budget in budgets))
    for name, method, values in _stabilities(runs):
        table.add_row(name, method, *map(_words, values.values()))
    return f"Jaccard index of kept sets with {first}", table


def _stabilities(runs: Runs) -> Iterator[tuple[str, str, dict[int, Mean | None]]]:
    """Yield every later run, each method, and its Jaccard indices with the first run by budget."""
    (_, result), *others = runs.items()
    budgets = sorted(set(result.behaviour["budget"].to_pylist()))
    for name, other in others:
        for method in methods(result):
            yield name, method, {k: stability(result, other, method, k) for k in budgets}


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


def _words(mean: Mean | None, of: int | None = None) -> str:
    """Return a mean with its interval, and its n where fewer than `of` are defined."""
    if mean is None:
        return "–"
    fewer = "" if of is None or mean.n == of else f" (n {mean.n})"
    interval = f" [{mean.low:.2f}, {mean.high:.2f}]" if mean.n > 1 else ""
    return f"{mean.mean:.3f}{interval}{fewer}"


def _size(size: CircuitSize | None) -> str:
    return "–" if size is None else f"{size.bound} {size.value:.2f}".strip()
