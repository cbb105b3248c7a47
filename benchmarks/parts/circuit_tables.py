"""Markdown tables of the figures of `benchmarks.circuits`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from benchmarks.parts.circuit_cases import BASELINE

Figures = dict[str, Any]


def markdown(figures: Figures) -> str:
    """Return a case's three tables: KL, beside the baseline, and what no method optimises."""
    parts = [_kl(figures), _beside(figures), _not_optimised(figures)]
    return "\n".join(line for lines in parts for line in ("", *lines))


def _kl(figures: Figures) -> Iterator[str]:
    null, budgets = figures["null"]["mean"], _budgets(figures)
    yield f"**{figures['title']}**: {figures['pairs']} pairs; KL in nats; nothing kept: {null:.2f}"
    yield ""
    yield from _head("method", *(f"K = {budget}" for budget in budgets), "s a prompt")
    for method, row in figures["kl_last"].items():
        seconds = f"{figures['seconds_per_prompt'][method]:.3f}"
        yield _row(method, *map(_mean, row.values()), seconds)


def _beside(figures: Figures) -> Iterator[str]:
    budgets = _budgets(figures)
    listed = ", ".join(map(str, budgets))
    yield f"{figures['title']}: KL and area divided by {BASELINE}'s; with K' features a method has"
    yield f"its KL at K, and a random set has the method's; Jaccard index with {BASELINE}'s sets"
    yield ""
    yield from _head(
        "method",
        *(f"K = {budget}" for budget in budgets),
        "area",
        f"K'/K at {listed}",
        "CPR",
        "CMD",
        f"random: K'/K at {listed}",
        f"Jaccard at {listed}",
    )
    for method, row in figures["kl_ratio"].items():
        areas = figures["areas"][method]
        yield _row(
            method,
            *map(_mean, row.values()),
            _mean(areas["ratio"]),
            _sizes(figures["size_ratio"][method]),
            _mean(areas["cpr"]),
            _mean(areas["cmd"]),
            _sizes(figures["compression"][method]),
            ", ".join(f"{one['mean']:.2f}" for one in figures["overlap"][method].values()),
        )


def _not_optimised(figures: Figures) -> Iterator[str]:
    budgets = _budgets(figures)
    middle = budgets[len(budgets) // 2]
    measures = {
        "completeness": figures["completeness"],
        "KL at zero": figures["kl_zero"],
    }
    if "stability" in figures:
        stable = figures["stability"]
        measures = {
            "unseen KL": figures["kl_last"],
            **measures,
            "Jaccard index, other corruptions": stable["corruptions"],
            "Jaccard index, another seed": stable["seed"],
        }
    yield f"{figures['title']}: what no method optimises, at K = {middle}"
    yield ""
    yield from _head("method", *measures)
    for method in figures["kl_last"]:
        yield _row(method, *(_mean(values[method][middle]) for values in measures.values()))


def _budgets(figures: Figures) -> list[int]:
    return list(next(iter(figures["kl_last"].values())))


def _head(*names: str) -> Iterator[str]:
    yield _row(*names)
    yield "|---" * len(names) + "|"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _mean(mean: dict[str, Any] | None) -> str:
    return "–" if mean is None else f"{mean['mean']:.3f} [{mean['low']:.2f}, {mean['high']:.2f}]"


def _sizes(sizes: dict[int, dict[str, Any] | None]) -> str:
    return ", ".join(_words(sizes.values()))


def _words(sizes: Iterable[dict[str, Any] | None]) -> Iterator[str]:
    for size in sizes:
        yield "–" if size is None else f"{size['bound']}{size['value']:.2f}"
