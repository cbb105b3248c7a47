"""Staged: grow the circuit from nothing, each stage by the gradient at the circuit so far.

A first-order score at the clean run (FAP) says what an occurrence does while everything else is
there. What a small circuit needs is what it does while nearly nothing is: at every stage the
gradient of -KL(clean || circuit) is taken at the current circuit, and the occurrences that lower
KL most, to first order and with their sign, are added. One path gives every budget. Exchanges, if
asked for, then improve each budget's circuit alone. `search.start`, `search.objective` and
`search.rule` shrink it from everything instead, by the metric, or with other gradients.
"""

from __future__ import annotations

import numpy as np

from pie_jax.devices.mesh import fetch
from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.engine.selection import Selection, pad, with_scores
from pie_jax.prune.methods.base import Method
from pie_jax.prune.search.path import nested_path, path_ends
from pie_jax.prune.search.shared import Search
from pie_jax.prune.search.task_wide.search import TaskSearch


def select(inputs: BatchEvaluator, budgets: tuple[int, ...]) -> list[Selection]:
    """Return the circuits of every budget on one path a prompt."""
    if not inputs.options.search.grows:
        return _on_path(inputs, budgets)
    search = Search(inputs, budgets)
    return search.selections(search.exchanged(search.grown))


def _on_path(inputs: BatchEvaluator, budgets: tuple[int, ...]) -> list[Selection]:
    ends = path_ends(inputs, budgets)
    path = nested_path(inputs, ends)
    mask, score = fetch(path.mask), fetch(path.score)
    # Of the metric, what it loses counts as what it gains.
    order = score if inputs.options.search.objective == "kl" else np.abs(score)
    places = [ends.index(budget) for budget in budgets]
    return [
        with_scores(_members(mask[:, at], order[:, at], budget), score[:, at])
        for at, budget in zip(places, budgets, strict=True)
    ]


def _members(mask: np.ndarray, order: np.ndarray, budget: int) -> np.ndarray:
    """Return the members [B, K] of masks [B, N], those of the largest order first."""
    kept = []
    for member, value in zip(mask > 0, order, strict=True):
        members = np.flatnonzero(member)
        kept.append(pad(members[np.argsort(-value[members], kind="stable")], budget))
    return np.stack(kept)


def task(search: TaskSearch) -> tuple[np.ndarray, np.ndarray]:
    """Return circuits of a whole task, grown the same way, and every feature's gain there."""
    mask = search.grown()
    return mask, search.measured(mask)[1]


METHOD = Method(
    "staged", "Grown from nothing by the gradient of KL at the circuit", select=select, task=task
)
