"""The search for circuits: exact KL and gains, learning, exchanges, and the enumerated optimum."""

from __future__ import annotations

import itertools
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prune_helpers import (
    SlowPrompt,
    prepare,
    softmax,
    tiny_model,
    tiny_pairs,
    tiny_transcoder,
)
from search_helpers import MOST, Case, case, listed, padded

from pie_jax.errors import InputError
from pie_jax.prune.checks import check_options
from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.engine.selection import PADDING, Selection
from pie_jax.prune.methods import METHODS, run_method
from pie_jax.prune.options import PruneOptions, SearchOptions
from pie_jax.prune.search import climb as climbing
from pie_jax.prune.search import shared as searches
from pie_jax.prune.search.circuits import Circuits, member_mask
from pie_jax.prune.search.climb import SOLVED, climb
from pie_jax.prune.search.exchange import exchange
from pie_jax.prune.search.learn import learn, warm_logits
from pie_jax.prune.search.narrow import narrowed
from pie_jax.prune.search.shared import LEARNED, LEARNED_EACH, Search
from pie_jax.prune.search.space import TILE, search_space, tiles, with_complement

__all__ = ["case"]

# KLs of a few nats in float32, from another program.
TOLERANCE = 1e-4
BUDGETS = (2, 5, 9)
ONES = jnp.ones((2, 2, 1))


def draw(case: Case, prompt: int, size: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).permutation(case.real(prompt))[:size].tolist()


def test_the_window_gives_the_kl_of_a_whole_slow_pass(case: Case):
    tokens = case.inputs.problem.prompt.tokens.shape[1]
    assert case.space.total.shape[3] <= tokens
    for prompt in range(case.prompts):
        for members in ([], draw(case, prompt, 3), draw(case, prompt, 12)):
            expected = case.slow_kl(prompt, members)
            found = case.kl(prompt, members)
            assert found == pytest.approx(expected, abs=TOLERANCE)


def test_occurrences_that_no_corruption_changes_are_no_candidates(case: Case):
    index = np.asarray(case.space.occurrence)
    delta = case.inputs.occurrences.delta
    for prompt in range(case.prompts):
        chosen = index[prompt][index[prompt] >= 0]
        assert sorted(chosen.tolist()) == np.flatnonzero(delta[prompt].any(axis=0)).tolist()


def test_a_tile_holds_candidates_of_one_position(case: Case):
    index, place = (np.asarray(x) for x in (case.space.occurrence, case.space.place))
    position = np.asarray(case.inputs.problem.writes.position)
    for prompt in range(case.prompts):
        for tile, at in zip(index[prompt].reshape(-1, TILE), place[prompt], strict=True):
            assert set(position[prompt][tile[tile >= 0]].tolist()) <= {at}


@given(st.lists(st.integers(0, 60), min_size=1, max_size=16))
def test_candidates_of_a_short_window_have_one_size(counts: list[int]):
    """However many there are at each place, as long as learning takes all of them; what narrowing
    leaves of more has it too, so that learning is compiled once."""
    place = np.repeat(np.arange(len(counts)), counts)[None]
    few = np.arange(place.shape[1])[None] < LEARNED
    index, where = tiles(few, place)
    assert where.shape == (1, 48)
    assert index[index >= 0].tolist() == np.flatnonzero(few).tolist()
    for tile, at in zip(index.reshape(48, TILE), where[0], strict=True):
        assert set(place[0][tile[tile >= 0]].tolist()) <= {at}


def test_gain_is_the_slope_of_minus_kl_at_the_circuit(case: Case):
    step = 1e-2
    for prompt in range(case.prompts):
        members = draw(case, prompt, 3)
        _, gain = case.loss_and_gain(prompt, members)
        for index in draw(case, prompt, 10, seed=1):
            up, down = (case.loss_with_share(prompt, members, index, x) for x in (step, -step))
            assert gain[index] == pytest.approx((down - up) / (2 * step), rel=0.02, abs=2e-3)
        assert np.flatnonzero(np.isfinite(gain)).tolist() == case.real(prompt).tolist()


def test_a_complement_counts_by_its_kl_to_nothing_kept(case: Case):
    """Against slow passes of whole prompts; the gain is its slope too."""
    weight, step = 0.7, 1e-2
    options = PruneOptions(search=SearchOptions(complement=weight))
    inputs = BatchEvaluator(
        case.inputs.problem, case.inputs.prompts, case.inputs.occurrences, case.inputs.rows, options
    )
    both = replace(case, inputs=inputs, space=with_complement(inputs, case.space))
    for prompt in range(case.prompts):
        members = draw(case, prompt, 3)
        slow = SlowPrompt(case.inputs, case.transcoder, prompt)
        kept = np.asarray(case.space.occurrence[prompt])[members].tolist()
        null, left = (softmax(slow.logits(removed)) for removed in (range(slow.count), kept))
        own = slow.kl([n for n in range(slow.count) if n not in kept])
        assert both.kl_beside_loss(prompt, members) == pytest.approx(own, abs=TOLERANCE)
        expected = own + weight * np.sum(null * (np.log(null) - np.log(left)))
        value, gain = both.loss_and_gain(prompt, members)
        assert value == pytest.approx(expected, abs=TOLERANCE)
        for index in draw(case, prompt, 5, seed=1):
            up, down = (both.loss_with_share(prompt, members, index, x) for x in (step, -step))
            assert gain[index] == pytest.approx((down - up) / (2 * step), rel=0.02, abs=2e-3)


def test_fewer_candidates_are_the_best_on_the_path_from_nothing(case: Case):
    few = search_space(case.inputs, 16)
    assert np.asarray(few.real).sum(axis=1).tolist() == [16] * case.prompts
    for prompt in range(case.prompts):
        _, gain = case.loss_and_gain(prompt, [])
        best = np.asarray(case.space.occurrence[prompt])[np.argsort(-gain)[:3]]
        assert set(best.tolist()) <= set(np.asarray(few.occurrence[prompt]).tolist())


def learned(case: Case, start: np.ndarray, steps: int = 10) -> Circuits:
    count = case.space.occurrence.shape[1]
    worth = np.zeros((case.prompts, count), np.float32)
    mask = np.stack([member_mask(members, count) for members in start]).astype(np.float32)
    logits = jnp.asarray(warm_logits(mask, worth))
    rate = jnp.full(case.prompts, 0.1)
    return learn(case.space, logits, jnp.asarray(BUDGETS), rate, MOST, steps, 1)[0]


def starts(case: Case) -> np.ndarray:
    return np.stack([padded([draw(case, p, k) for k in BUDGETS]) for p in range(case.prompts)])


def check_measured(case: Case, prompt: int, found: Circuits) -> None:
    """Every circuit has its size, its exact KL, and its members' gains there."""
    circuits = listed(found.members[prompt])
    assert [len(circuit) for circuit in circuits] == list(BUDGETS)
    assert all(set(circuit) <= set(case.real(prompt).tolist()) for circuit in circuits)
    np.testing.assert_allclose(found.kl[prompt], case.kls(prompt, circuits), atol=TOLERANCE)
    for s, circuit in enumerate(circuits):
        _, gain = case.loss_and_gain(prompt, circuit)
        members = np.asarray(found.members[prompt, s])
        expected = np.where(members >= 0, gain[members], 0.0)
        np.testing.assert_allclose(found.gain[prompt, s], expected, rtol=1e-3, atol=TOLERANCE)


def test_learning_keeps_exactly_k_and_is_never_worse_than_its_start(case: Case):
    start = starts(case)
    found = learned(case, start)
    improved = 0
    for prompt in range(case.prompts):
        check_measured(case, prompt, found)
        before, after = case.kls(prompt, listed(start[prompt])), np.asarray(found.kl[prompt])
        assert (after <= before + TOLERANCE).all()
        improved += (after < before - 0.01).sum()
    # From random circuits there is much to gain.
    assert improved >= 4


def test_learning_is_reproducible_and_one_step_is_the_start(case: Case):
    start = starts(case)
    first, second = learned(case, start), learned(case, start)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    one_step = learned(case, start, steps=1).members
    for prompt in range(case.prompts):
        assert listed(one_step[prompt]) == listed(start[prompt])


def test_exchange_never_raises_kl_and_keeps_the_size(case: Case):
    start = starts(case)
    found = exchange(case.space, jnp.asarray(start), rounds=3, chunk=1)
    for prompt in range(case.prompts):
        check_measured(case, prompt, found)
        before, after = case.kls(prompt, listed(start[prompt])), np.asarray(found.kl[prompt])
        assert (after <= before + 1e-6).all()
        assert (after < before - 0.01).any()


def test_an_exchange_is_the_best_of_those_tried(case: Case):
    """One round equals all 4 x 8 swaps measured by hand."""
    prompt, members = 0, draw(case, 0, 6)
    kl, gain = case.loss_and_gain(prompt, members)
    weakest = sorted(members, key=lambda n: gain[n])[:4]
    free = np.where(np.isin(np.arange(len(gain)), members), -np.inf, gain)
    swaps = [
        [*(n for n in members if n != out), into]
        for out in weakest
        for into in np.argsort(-free, kind="stable")[:8].tolist()
    ]
    expected = min(kl, case.kls(prompt, swaps).min())
    both = np.stack([padded([members])] * case.prompts)
    found = exchange(case.space, jnp.asarray(both), rounds=1, chunk=1)
    assert float(found.kl[0, 0]) == pytest.approx(expected, abs=TOLERANCE)


def grown_kl(case: Case, search: Search) -> np.ndarray:
    """Return the KL of the grown circuits alone: while they grew, the complement's counted too."""
    members = search.grown.members
    return np.stack([case.kls(p, listed(members[p])) for p in range(case.prompts)])


@pytest.mark.parametrize(("most", "each"), [(LEARNED, LEARNED_EACH), (24, 1), (1, 2)])
def test_auto_is_grown_and_learned_where_that_is_better(
    case: Case, monkeypatch: pytest.MonkeyPatch, most: int, each: int
):
    """No prompt depends on its batch, what is all but solved is not learned again, and a budget of
    more members than are learned from is still filled."""
    monkeypatch.setattr(searches, "LEARNED", most)
    monkeypatch.setattr(searches, "LEARNED_EACH", each)
    inputs = case.inputs
    search = Search(inputs, BUDGETS, least=min(BUDGETS))
    auto = climb(search)
    grown, kl = grown_kl(case, search), np.asarray(auto.kl)
    assert (kl <= grown + TOLERANCE).all()
    assert (kl < grown - 1e-3).any()
    for prompt in range(case.prompts):
        circuits = listed(auto.members[prompt])
        assert [len(circuit) for circuit in circuits] == list(BUDGETS)
        np.testing.assert_allclose(kl[prompt], case.kls(prompt, circuits), atol=TOLERANCE)


def test_a_solved_circuit_is_left_as_it_is(case: Case, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(climbing, "SOLVED", np.inf)
    search = Search(case.inputs, BUDGETS, least=min(BUDGETS))
    auto = climb(search)
    same = (np.asarray(auto.members) == np.asarray(search.grown.members)).all(axis=-1)
    assert (same | (np.asarray(auto.kl) < grown_kl(case, search))).all()


def test_a_larger_circuit_is_no_worse_than_the_smaller_one_completed(case: Case):
    search = Search(case.inputs, BUDGETS, least=min(BUDGETS))
    auto = climb(search)
    relp = np.abs(search.of_candidates(case.inputs.attribution("relp")))
    for prompt in range(case.prompts):
        circuits = listed(auto.members[prompt])
        for at, (before, size) in enumerate(zip(circuits, BUDGETS[1:], strict=False), start=1):
            order = np.where(np.asarray(search.space.real[prompt]), relp[prompt], -np.inf)
            order[before] = np.inf
            longer = np.argsort(-order, kind="stable")[:size].tolist()
            solved = SOLVED * float(search.null[prompt])
            found = float(auto.kl[prompt, at])
            assert found <= max(case.kl(prompt, longer), solved) + TOLERANCE


def test_auto_against_every_circuit_of_three_among_twelve(case: Case):
    """The search sees 12 candidates only, so that all 220 circuits can be measured."""
    options = replace(case.inputs.options, search=SearchOptions(candidates=12, steps=30))
    before, case.inputs.options = case.inputs.options, options
    try:
        search = Search(case.inputs, (3,))
        # What auto starts from, before scores that know more than the twelve come in.
        (selection,) = search.selections(climb(search))
    finally:
        case.inputs.options = before
    small = Case(case.inputs, case.transcoder, search.space)
    for prompt in range(case.prompts):
        assert len(small.real(prompt)) == 12
        every = [list(c) for c in itertools.combinations(small.real(prompt).tolist(), 3)]
        values = small.kls(prompt, every)
        places = np.asarray(small.space.occurrence[prompt]).tolist()
        kl = small.kl(prompt, [places.index(n) for n in selection.kept[prompt]])
        # Among the best two of a hundred circuits, and close to the very best.
        assert (values < kl - 1e-6).mean() <= 0.02
        assert kl <= values.min() + 0.1 * (np.median(values) - values.min())


def stacked(selections: list[Selection]) -> np.ndarray:
    """Return kept sets of several sizes as one array [B, S, K]: one program to compile."""
    most = max(one.kept.shape[1] for one in selections)
    rows = [
        np.pad(one.kept, ((0, 0), (0, most - one.kept.shape[1])), constant_values=PADDING)
        for one in selections
    ]
    return np.stack(rows, axis=1)


def test_auto_is_never_worse_than_a_gradient_score(case: Case):
    """From one occurrence to all of them, with a search that sees too few to be of use."""
    count = int(case.inputs.occurrences.count.max())
    budgets = (1, 2, 5, 10, count // 4, count // 2, count)
    options = replace(case.inputs.options, search=SearchOptions(candidates=8, stages=3, steps=1))
    before, case.inputs.options = case.inputs.options, options
    try:
        kl = {
            name: case.inputs.kl_last(stacked(run_method(METHODS[name], case.inputs, budgets)))
            for name in ("auto", "fap", "relp")
        }
    finally:
        case.inputs.options = before
    least = np.minimum(kl["fap"], kl["relp"])
    assert (kl["auto"] <= least + 1e-5).all()
    assert (kl["auto"] < least - 1e-3).any()
    assert (kl["auto"][:, -1] < 1e-5).all()


def test_a_narrower_space_holds_the_highest_scores_and_measures_the_same(case: Case):
    score = np.random.default_rng(3).normal(size=case.space.occurrence.shape).astype(np.float32)
    narrow = narrowed(case.inputs, case.space, jnp.asarray(score), 10)
    index = np.asarray(narrow.of)
    small = Case(case.inputs, case.transcoder, narrow.space)
    for prompt in range(case.prompts):
        real = case.real(prompt)
        chosen = index[prompt][index[prompt] >= 0]
        assert set(chosen.tolist()) == set(real[np.argsort(-score[prompt, real])[:10]].tolist())
        places = [small.real(prompt).tolist()[i] for i in (0, 3, 7)]
        members = index[prompt][places].tolist()
        assert small.kl(prompt, places) == pytest.approx(case.kl(prompt, members), abs=1e-6)
        _, gain = small.loss_and_gain(prompt, places)
        _, expected = case.loss_and_gain(prompt, members)
        here = small.real(prompt)
        np.testing.assert_allclose(gain[here], expected[index[prompt][here]], atol=1e-5)
        np.testing.assert_array_equal(
            np.asarray(narrow.score)[prompt],
            np.where(index[prompt] >= 0, score[prompt][index[prompt]], 0),
        )
        found = Circuits(
            jnp.tile(jnp.array([[*places, -1]]), (case.prompts, 1, 1)), ONES, ONES, ONES
        )
        assert narrow.widened(found).members[prompt, 0].tolist() == [*members, -1]


def test_a_space_that_is_small_enough_stays_as_it_is(case: Case):
    score = jnp.zeros(case.space.occurrence.shape)
    narrow = narrowed(
        case.inputs, case.space, score, max(case.real(p).size for p in range(case.prompts))
    )
    assert narrow.space is case.space
    members = jnp.tile(jnp.array([[5, 0, -1]]), (case.prompts, 1, 1))
    assert (narrow.widened(Circuits(members, ONES, ONES, ONES)).members == members).all()


@pytest.mark.parametrize("name", ["staged", "learned", "auto"])
def test_searches_average_over_corruptions(tmp_path, name: str):
    """Two equal corruptions find what one does."""
    model = tiny_model(tmp_path / "model")
    transcoder = tiny_transcoder(model, bias=0.0)
    pairs = tiny_pairs([12, 10], seed=4)
    twice = [replace(pair, corrupted=pair.corrupted * 2) for pair in pairs]
    (one,), (two,) = (
        run_method(METHODS[name], prepare(model, transcoder, rows, PruneOptions()), (5,))
        for rows in (pairs, twice)
    )
    # In any order: two gains may be equal but for their last bits.
    np.testing.assert_array_equal(np.sort(one.kept), np.sort(two.kept))
    np.testing.assert_allclose(np.sort(one.score), np.sort(two.score), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"candidates": 0}, "search.candidates"),
        ({"stages": 0}, "search.stages"),
        ({"steps": 0}, "search.steps"),
        ({"exchanges": -1}, "search.exchanges"),
        ({"complement": -0.5}, "search.complement"),
        ({"rate": 0.0}, "search.rate"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict, name: str):
    with pytest.raises(InputError, match=name):
        check_options(PruneOptions(search=SearchOptions(**settings)))
