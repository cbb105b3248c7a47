"""What the chunks show together: mean KL, its ratios, sizes at equal KL, with intervals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pie_jax.intervals import bootstrap_mean, bootstrap_ratio
from pie_jax.prune.results.measures import size_for

Kl = dict[str, dict[int, np.ndarray]]
RESAMPLES = 2000


def mean_table(kl: Kl) -> dict[str, dict[int, dict[str, float] | None]]:
    """Return a measure's mean with its interval, by method and budget; None where undefined."""
    return {
        method: {budget: _mean(values) for budget, values in row.items()}
        for method, row in kl.items()
    }


def medians(table: Kl) -> dict[str, dict[int, float | None]]:
    """Return the median over the prompts where a measure is defined, by method and budget."""
    return {
        method: {
            budget: None if np.isnan(values).all() else float(np.nanmedian(values))
            for budget, values in row.items()
        }
        for method, row in table.items()
    }


def random_size(
    random: dict[int, np.ndarray], reached: np.ndarray, seed: int = 0
) -> dict[str, Any] | None:
    """Return how many random active occurrences have the mean KL of a method, with an interval over
    prompts (both are drawn together); `bound` says where the sizes tried only bound it."""
    budgets = np.asarray(sorted(random))
    values = np.stack([random[budget] for budget in budgets.tolist()], axis=1)
    count = min(len(values), len(reached))
    values, reached = values[:count], reached[:count]

    def size(rows: np.ndarray) -> Any:
        return size_for(budgets, values[rows].mean(axis=0), float(reached[rows].mean()))

    whole = size(np.arange(count))
    if whole is None:
        return None
    draws = np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))
    sizes = [one.value for one in map(size, draws) if one is not None]
    low, high = np.percentile(sizes, (2.5, 97.5))
    return {"size": whole.value, "bound": whole.bound, "low": low, "high": high, "n": count}


def ratios(one: dict[int, np.ndarray], other: dict[int, np.ndarray]) -> dict[int, Any]:
    """Return mean KL of one method over another's on the prompts that both have, by budget."""
    found = {}
    for budget in sorted(set(one) & set(other)):
        count = min(len(one[budget]), len(other[budget]))
        ratio = bootstrap_ratio(one[budget][:count], other[budget][:count])
        found[budget] = None if ratio is None else ratio._asdict()
    return found


def kl_rows(table: dict[str, Any], seconds: dict[str, float]) -> list[str]:
    """Return a Markdown table: a row a method, a column a budget, n and seconds a prompt last."""

    def row(method: str, cells: dict[int, Any], budgets: list[int]) -> list[str]:
        count = next(iter(cells.values()))["n"]
        own = [_cell(cells.get(budget)) for budget in budgets]
        return [*own, str(count), f"{seconds[method]:.2f}"]

    return _table(table, row, ("n", "s a prompt"))


def share_rows(table: dict[str, Any]) -> list[str]:
    """Return a Markdown table of means or medians: a row a method, a column a budget."""

    def row(method: str, cells: dict[int, Any], budgets: list[int]) -> list[str]:
        values = [cells.get(budget) for budget in budgets]
        means = [one["mean"] if isinstance(one, dict) else one for one in values]
        return ["–" if one is None else f"{one:.2f}" for one in means]

    return _table(table, row)


def _table(
    table: dict[str, Any],
    row: Callable[[str, dict[int, Any], list[int]], list[str]],
    more: tuple[str, ...] = (),
) -> list[str]:
    budgets = sorted({budget for cells in table.values() for budget in cells})
    head = ["method", *(f"K = {budget}" for budget in budgets), *more]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for method, cells in table.items():
        lines.append(f"| {method} | {' | '.join(row(method, cells, budgets))} |")
    return lines


def _mean(values: np.ndarray) -> dict[str, float] | None:
    found = bootstrap_mean(values)
    return None if found is None else found._asdict()


def _cell(mean: dict[str, float] | None) -> str:
    if mean is None:
        return "–"
    digits = 3 if mean["mean"] >= 0.01 else 4
    return f"{mean['mean']:.{digits}f} [{mean['low']:.2f}, {mean['high']:.2f}]"
