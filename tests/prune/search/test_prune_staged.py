"""Staged selection: gains are slopes of KL, every budget ends a stage, the path is nested."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from search_helpers import Case, case, listed

import pie_jax
from pie_jax.models.loader import load_model
from pie_jax.prune.options import SearchOptions
from pie_jax.prune.search.grow import ENOUGH, additions, grow, largest, stage_ends
from pie_jax.tasks import get_task
from pie_jax.transcoders.loader import load_transcoder

__all__ = ["case"]


@pytest.mark.parametrize("budgets", [(5,), (5, 10, 20), (3, 160), (1,)])
def test_every_budget_ends_a_stage(budgets):
    ends = stage_ends(budgets, 20)
    assert set(budgets) <= set(ends)
    assert ends == sorted(set(ends))
    assert ends[0] == 1
    assert ends[-1] == max(budgets)


def test_a_path_may_start_at_a_circuit_of_some_size():
    assert stage_ends((5, 20), 20, 5) == [n for n in stage_ends((5, 20), 20) if n >= 5]


def test_large_circuits_grow_in_more_stages_unless_told():
    assert len(stage_ends((80,), None)) == len(stage_ends((80,), 20))
    ends = np.array(stage_ends((10_000,), None))
    assert (ends[1:] <= np.ceil(ends[:-1] * 4 / 3)).all()
    assert len(stage_ends((10_000,), 5)) == 5


def added(gain: np.ndarray, count: int, enough: float) -> list[float]:
    """Return the gains of what is to be added, each number of the largest tried in turn."""
    rise = sorted((g for g in gain.tolist() if g > 0), reverse=True)
    fall = sorted(g for g in gain.tolist() if -np.inf < g <= 0)
    count = min(count, len(rise) + len(fall))
    largest = sorted([*rise, *fall], reverse=True)[:count]
    if sum(g for g in largest if g > 0) <= enough:
        return sorted(largest)
    sets = [
        [*rise[:n], *fall[: count - n]]
        for n in range(count + 1)
        if n <= len(rise) and count - n <= len(fall)
    ]
    fit = [one for one in sets if sum(one) <= enough]
    return sorted(fit[-1] if fit else sets[0])


def test_additions_lower_kl_no_further_than_to_nothing():
    """Against a slow version; of 9 candidates, some are padding, some have no gain."""
    random, compiled = np.random.default_rng(0), jax.jit(additions, static_argnames="most")
    for draw in range(200):
        gain = random.normal(size=9).astype(np.float32)
        gain = np.abs(gain) * (-1) ** draw if draw % 3 == 0 else gain
        gain[random.random(9) < 0.2] = -np.inf
        gain[random.random(9) < 0.1] = 0.0
        count, enough = int(random.integers(0, 11)), float(random.exponential(2.0))
        # No more can be asked for than `most`; it may be more than there are.
        most = 4 if draw % 2 else 12
        count = min(count, most)
        mask = np.asarray(compiled(gain, jnp.int32(count), jnp.float32(enough), most=most))
        assert sorted(gain[mask].tolist()) == added(gain, count, enough)


def test_of_equal_gains_the_first_rise_and_the_last_fall_unless_kl_would_fall_below_nothing():
    gain = jnp.asarray([1.0, 0.0, 1.0, -1.0, 0.0, -1.0])
    for count, enough, chosen in ((1, 9.0, [0]), (3, 9.0, [0, 2, 4]), (2, 0.5, [0, 3])):
        mask = additions(gain, jnp.int32(count), jnp.float32(enough), most=3)
        assert np.flatnonzero(mask).tolist() == chosen


def test_the_largest_are_signed_and_never_padding():
    score = jnp.array([0.5, -2.0, -jnp.inf, 0.9, 0.5])
    assert largest(score, jnp.int32(2)).tolist() == [1, 0, 0, 1, 0]
    # What is asked for beyond what there is is not made up.
    assert largest(score, jnp.int32(9)).tolist() == [1, 1, 0, 1, 1]


def test_each_stage_adds_gains_in_balance_at_the_circuit_so_far(case: Case):
    ends = [1, 3, 6]
    path = grow(case.space, jnp.asarray(ends), max(ends), chunk=1)
    for b in range(case.prompts):
        kept: list[int] = []
        for stage, end in enumerate(ends):
            kl, gain = case.loss_and_gain(b, kept)
            if not kept:
                assert float(path.null[b]) == pytest.approx(kl, abs=1e-4)
            free = np.array([-np.inf if n in kept else g for n, g in enumerate(gain)])
            values = added(free, end - len(kept), ENOUGH * kl)
            kept += [int(np.flatnonzero(free == value)[0]) for value in values]
            assert listed(path.circuits.members[b])[stage] == sorted(kept)
            kl, _ = case.loss_and_gain(b, kept)
            assert float(path.circuits.kl[b, stage]) == pytest.approx(kl, abs=1e-4)


@pytest.mark.slow
def test_paths_are_nested_and_beat_fap_on_the_demo():
    model, clt = load_model("demo"), load_transcoder("demo")
    pairs = get_task("docstring").generate(4, seed=2, tokenizer=model.tokenizer, split="heldout")
    # With a weight for the complement `auto` grows for more than the KL that is compared here.
    search = SearchOptions(complement=0.0)
    methods = ("fap", "staged", "auto")
    result = pie_jax.prune(
        model, clt, pairs, methods=methods, budgets=(10, 40), batch_size=4, search=search
    )
    table = result.selections.to_pydict()
    kept: dict[int, set] = {10: set(), 40: set()}
    for i, method in enumerate(table["method"]):
        if method == "staged":
            where = tuple(table[name][i] for name in ("prompt", "layer", "position", "feature"))
            kept[table["budget"][i]].add(where)
    assert len(kept[10]) == 40
    assert kept[10] < kept[40]
    summary = result.summary()
    assert summary["staged"][40].mean < 0.5 * summary["fap"][40].mean
    # Prompt by prompt the best of staged and learned, so never worse in the mean.
    for budget in (10, 40):
        assert summary["auto"][budget].mean <= summary["staged"][budget].mean + 1e-5
