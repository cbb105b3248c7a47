"""Measures over a run's budgets that compare methods: areas, sizes at equal KL, stability.

Arrays are [prompts, budgets]; NaN is undefined and stays so. Intervals are over prompts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc

from pie_jax.intervals import Mean, bootstrap_mean, bootstrap_ratio
from pie_jax.prune.results.tables import PruneResult


class CircuitSize(NamedTuple):
    """How many features, or how many times as many; `bound` is `≤` or `>` where the run's budgets
    only bound it."""

    value: float
    bound: str = ""


def by_prompt(result: PruneResult, method: str, measure: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the budgets [K] in order and a method's measure [prompts, K]."""
    table = result.behaviour
    use = np.asarray(table["method"].to_pylist()) == method
    columns = {
        name: np.asarray(table[name].to_numpy(zero_copy_only=False))[use]
        for name in ("prompt", "budget", measure)
    }
    prompts, row = np.unique(columns["prompt"], return_inverse=True)
    budgets, column = np.unique(columns["budget"], return_inverse=True)
    out = np.full((len(prompts), len(budgets)), np.nan)
    out[row, column] = columns[measure].astype(np.float64)
    return budgets, out


def area(budgets: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return each prompt's trapezoid area of a measure over log K by the range of log K: a mean
    over sizes; NaN with one budget."""
    if len(budgets) < 2:
        return np.full(len(values), np.nan)
    log = np.log(budgets)
    return np.trapezoid(values, log, axis=1) / (log[-1] - log[0])


def size_for(budgets: np.ndarray, mean: np.ndarray, level: float) -> CircuitSize | None:
    """Return the least K at which a mean KL [K] is at most `level`; None for a level of no KL.

    Between budgets log K and log KL are interpolated; beyond them there is a bound.
    """
    if not level > 0:
        return None
    below = np.flatnonzero(mean <= level)
    if len(below) == 0:
        return CircuitSize(float(budgets[-1]), ">")
    after = int(below[0])
    if after == 0:
        return CircuitSize(float(budgets[0]), "≤" if mean[0] < level else "")
    x, y = np.log(budgets[after - 1 : after + 1]), np.log(np.maximum(mean[after - 1 :][:2], 1e-12))
    share = (y[0] - np.log(level)) / (y[0] - y[1])
    return CircuitSize(float(np.exp(x[0] + share * (x[1] - x[0]))))


def sizes_for_equal_kl(
    budgets: np.ndarray, mean: np.ndarray, of: np.ndarray, levels: np.ndarray
) -> dict[int, CircuitSize | None]:
    """Return by budget in `of` how many times as many features a method of mean KL [K] needs to
    reach another one's KL there, `levels`."""
    out: dict[int, CircuitSize | None] = {}
    for budget, level in zip(of.tolist(), levels, strict=True):
        size = size_for(budgets, mean, float(level))
        out[budget] = None if size is None else CircuitSize(size.value / budget, size.bound)
    return out


def faithfulness_areas(
    budgets: np.ndarray, occurrences: np.ndarray, faithfulness: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return CPR and CMD of each prompt: the areas under f and |1 - f| over the share kept.

    mib-bench's definition (arXiv 2504.13151), with the run's budgets for its shares; f is 0 with
    nothing and 1 with all `occurrences` [prompts] kept. CPR is better high, CMD at 0.
    """
    cpr, cmd = np.full(len(occurrences), np.nan), np.full(len(occurrences), np.nan)
    for row, (count, f) in enumerate(zip(occurrences, faithfulness, strict=True)):
        use = budgets < count
        share = np.concatenate([[0.0], budgets[use] / count, [1.0]])
        values = np.concatenate([[0.0], f[use], [1.0]])
        cpr[row] = np.trapezoid(values, share)
        cmd[row] = np.trapezoid(np.abs(1.0 - values), share)
    return cpr, cmd


def sizes_for_baseline(
    result: PruneResult, method: str, baseline: str
) -> dict[int, CircuitSize | None]:
    """Return by budget K how many features, as a share of K, reach the baseline's mean KL at K."""
    budgets, values = by_prompt(result, method, "kl_last")
    of, levels = by_prompt(result, baseline, "kl_last")
    return sizes_for_equal_kl(budgets, values.mean(axis=0), of, levels.mean(axis=0))


def compression(
    result: PruneResult, method: str, random: PruneResult | None = None
) -> dict[int, CircuitSize | None]:
    """Return by budget how many times more features a random active set of equal mean KL has.

    `random` is a run of that method on the same prompts, with other budgets; by default it is
    `result`, and there is nothing where that has none.
    """
    sizes, values = by_prompt(random or result, "random", "kl_last")
    if len(sizes) == 0:
        return {}
    of, levels = by_prompt(result, method, "kl_last")
    return sizes_for_equal_kl(sizes, values.mean(axis=0), of, levels.mean(axis=0))


def kl_ratios(result: PruneResult, method: str, baseline: str) -> dict[int, Mean | None]:
    """Return by budget the mean KL by the baseline's, with an interval over the same prompts."""
    budgets, values = by_prompt(result, method, "kl_last")
    _, base = by_prompt(result, baseline, "kl_last")
    columns = zip(budgets.tolist(), values.T, base.T, strict=True)
    return {budget: bootstrap_ratio(one, other) for budget, one, other in columns}


def paired_difference(one: np.ndarray, other: np.ndarray) -> Mean | None:
    """Return the mean of `one - other` over prompts that have both, with its interval."""
    return bootstrap_mean(one - other)


def kept_sets(result: PruneResult, method: str, budget: int) -> dict[int, set[tuple[int, ...]]]:
    """Return each prompt's kept (layer, position, feature)."""
    table = result.selections
    names = ("prompt", "layer", "position", "feature")
    use = (np.asarray(table["method"].to_pylist()) == method) & (
        table["budget"].to_numpy() == budget
    )
    out: dict[int, set[tuple[int, ...]]] = {}
    for prompt, *place in zip(
        *(table[name].to_numpy()[use].tolist() for name in names), strict=True
    ):
        out.setdefault(prompt, set()).add(tuple(place))
    return out


def stability(one: PruneResult, other: PruneResult, method: str, budget: int) -> Mean | None:
    """Return the mean Jaccard index of the sets that two runs keep, over prompts of both.

    The runs differ in what should not matter: the seed, or the corruptions found on.
    """
    return _jaccard(kept_sets(one, method, budget), kept_sets(other, method, budget))


def overlap(result: PruneResult, method: str, other: str, budget: int) -> Mean | None:
    """Return the mean Jaccard index of the sets that two methods of a run keep."""
    return _jaccard(kept_sets(result, method, budget), kept_sets(result, other, budget))


def _jaccard(
    one: dict[int, set[tuple[int, ...]]], other: dict[int, set[tuple[int, ...]]]
) -> Mean | None:
    both = sorted(set(one) & set(other))
    shares = [len(one[p] & other[p]) / len(one[p] | other[p]) for p in both]
    return bootstrap_mean(np.array(shares))


def against_target(result: PruneResult, method: str) -> dict[int, Mean | None]:
    """Return by budget the mean share of the kept effect that pulls against the target: of the
    kept occurrences' FAP scores by magnitude, that of scores below 0.

    Needs FAP's scores: a run that has none raises `KeyError`.
    """
    budgets, values = shares_against(result, method)
    return {k: bootstrap_mean(one) for k, one in zip(budgets.tolist(), values.T, strict=True)}


def shares_against(result: PruneResult, method: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the budgets [K] and each prompt's share [prompts, K] of `against_target`; NaN where
    nothing that is kept has a score."""
    kept = result.selections.filter(pc.field("method") == method)
    columns = ("prompt", "layer", "position", "feature")
    scored = np.stack([result.scores[name].to_numpy() for name in columns])
    wanted = np.stack([kept[name].to_numpy() for name in columns])
    shape = np.concatenate([scored, wanted], axis=1).max(axis=1, initial=0) + 1
    places = np.ravel_multi_index(tuple(scored), tuple(shape))
    order = np.argsort(places)
    at = np.searchsorted(places, np.ravel_multi_index(tuple(wanted), tuple(shape)), sorter=order)
    effect = result.scores["fap"].to_numpy()[order[at]].astype(np.float64)
    prompts, row = np.unique(wanted[0], return_inverse=True)
    budgets, column = np.unique(kept["budget"].to_numpy(), return_inverse=True)
    sums = np.zeros((2, len(prompts), len(budgets)))
    np.add.at(sums[0], (row, column), np.maximum(-effect, 0.0))
    np.add.at(sums[1], (row, column), np.abs(effect))
    whole = np.where(sums[1] > 0, sums[1], np.nan)
    return budgets, sums[0] / whole


def unique_features(result: PruneResult, method: str, budget: int) -> int:
    """Return how many different (layer, feature) the circuits of all prompts hold together."""
    kept = kept_sets(result, method, budget).values()
    return len({(layer, feature) for places in kept for layer, _, feature in places})
