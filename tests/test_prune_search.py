"""The search for circuits: exact KL and gains, learning, exchanges, and the enumerated optimum."""

from __future__ import annotations

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from prune_helpers import prepare, tiny_model, tiny_pairs, tiny_transcoder
from search_helpers import Case, case, masks

from pie_jax.errors import InputError
from pie_jax.prune.checks import check_options
from pie_jax.prune.methods import METHODS, run_method
from pie_jax.prune.options import PruneOptions, SearchOptions
from pie_jax.prune.search.exchange import exchange
from pie_jax.prune.search.found import Search, best_of
from pie_jax.prune.search.learn import Circuits, learn, warm_logits
from pie_jax.prune.search.space import TILE, search_space

__all__ = ["case"]

# KLs of a few nats in float32, from another program.
TOLERANCE = 1e-4
BUDGETS = (2, 5, 9)


def draw(case: Case, prompt: int, size: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).permutation(case.real(prompt))[:size].tolist()


def test_the_window_gives_the_kl_of_a_whole_slow_pass(case: Case):
    tokens = case.inputs.problem.prompt.tokens.shape[1]
    assert case.space.total.shape[3] <= tokens
    for prompt in range(case.prompts):
        for members in ([], draw(case, prompt, 3), draw(case, prompt, 12)):
            expected = case.slow_kl(prompt, members)
            found = case.kl(prompt, masks(case, [members])[0])
            assert found == pytest.approx(expected, abs=TOLERANCE)


def test_occurrences_that_no_corruption_changes_are_no_candidates(case: Case):
    index = np.asarray(case.space.occurrence)
    delta = case.inputs.occurrences.delta
    for prompt in range(case.prompts):
        chosen = index[prompt][index[prompt] >= 0]
        assert sorted(chosen.tolist()) == np.flatnonzero(delta[prompt].any(axis=0)).tolist()


def test_a_tile_holds_candidates_of_one_position(case: Case):
    index, place = (np.asarray(x) for x in (case.space.occurrence, case.space.position))
    position = np.asarray(case.inputs.problem.writes.position)
    for prompt in range(case.prompts):
        for tile, at in zip(index[prompt].reshape(-1, TILE), place[prompt], strict=True):
            assert set(position[prompt][tile[tile >= 0]].tolist()) <= {at}


def test_gain_is_the_slope_of_minus_kl_at_the_circuit(case: Case):
    step = 1e-2
    for prompt in range(case.prompts):
        mask = masks(case, [draw(case, prompt, 3)])[0]
        _, gain = case.kl_and_gain(prompt, mask)
        for index in draw(case, prompt, 10, seed=1):
            change = np.zeros_like(mask)
            change[index] = step
            up, down = case.kl(prompt, mask + change), case.kl(prompt, mask - change)
            assert gain[index] == pytest.approx((down - up) / (2 * step), rel=0.02, abs=2e-3)
        assert np.flatnonzero(np.isfinite(gain)).tolist() == case.real(prompt).tolist()


def test_fewer_candidates_are_the_best_on_the_path_from_nothing(case: Case):
    few = search_space(case.inputs, 16)
    assert np.asarray(few.real).sum(axis=1).tolist() == [16] * case.prompts
    for prompt in range(case.prompts):
        _, gain = case.kl_and_gain(prompt, masks(case, [[]])[0])
        best = np.asarray(case.space.occurrence[prompt])[np.argsort(-gain)[:3]]
        assert set(best.tolist()) <= set(np.asarray(few.occurrence[prompt]).tolist())


def learned(case: Case, start: np.ndarray, steps: int = 10) -> Circuits:
    worth = np.zeros((case.prompts, start.shape[-1]), np.float32)
    logits = jax.vmap(warm_logits)(jnp.asarray(start), jnp.asarray(worth))
    return learn(case.space, logits, jnp.asarray(BUDGETS), jnp.float32(0.1), steps, 1)


def starts(case: Case) -> np.ndarray:
    return np.stack([masks(case, [draw(case, p, k) for k in BUDGETS]) for p in range(case.prompts)])


def test_learning_keeps_exactly_k_and_is_never_worse_than_its_start(case: Case):
    start = starts(case)
    found = learned(case, start)
    improved = 0
    for prompt in range(case.prompts):
        before = case.kls(prompt, start[prompt])
        after = case.kls(prompt, np.asarray(found.mask[prompt]))
        np.testing.assert_allclose(found.kl[prompt], after, atol=TOLERANCE)
        assert (after <= before + TOLERANCE).all()
        improved += (after < before - 0.01).sum()
        assert np.asarray(found.mask[prompt]).sum(axis=1).tolist() == list(BUDGETS)
        assert not np.asarray(found.mask[prompt])[:, ~np.asarray(case.space.real[prompt])].any()
    # From random circuits there is much to gain.
    assert improved >= 4


def test_learning_is_reproducible_and_one_step_is_the_start(case: Case):
    start = starts(case)
    first, second = learned(case, start), learned(case, start)
    np.testing.assert_array_equal(first.mask, second.mask)
    np.testing.assert_array_equal(first.kl, second.kl)
    np.testing.assert_array_equal(learned(case, start, steps=1).mask, start)


def test_exchange_never_raises_kl_and_keeps_the_size(case: Case):
    start = starts(case)
    found = exchange(case.space, jnp.asarray(start), rounds=3, chunk=1)
    for prompt in range(case.prompts):
        before = case.kls(prompt, start[prompt])
        after = case.kls(prompt, np.asarray(found.mask[prompt]))
        np.testing.assert_allclose(found.kl[prompt], after, atol=TOLERANCE)
        assert (after <= before + 1e-6).all()
        assert (after < before - 0.01).any()
        assert np.asarray(found.mask[prompt]).sum(axis=1).tolist() == list(BUDGETS)


def test_an_exchange_is_the_best_of_those_tried(case: Case):
    """One round equals all 4 x 8 swaps measured by hand."""
    prompt, members = 0, draw(case, 0, 6)
    mask = masks(case, [members])[0]
    kl, gain = case.kl_and_gain(prompt, mask)
    weakest = sorted(members, key=lambda n: gain[n])[:4]
    free = np.where(mask > 0, -np.inf, gain)
    swaps = [
        [*(n for n in members if n != out), into]
        for out in weakest
        for into in np.argsort(-free, kind="stable")[:8].tolist()
    ]
    expected = min(kl, case.kls(prompt, masks(case, swaps)).min())
    both = np.stack([mask[None]] * case.prompts)
    found = exchange(case.space, jnp.asarray(both), rounds=1, chunk=1)
    assert float(found.kl[0, 0]) == pytest.approx(expected, abs=TOLERANCE)


def test_the_best_is_chosen_prompt_by_prompt():
    one = Circuits(jnp.array([[[1.0, 0.0]], [[1.0, 0.0]]]), jnp.array([[0.3], [0.1]]))
    two = Circuits(jnp.array([[[0.0, 1.0]], [[0.0, 1.0]]]), jnp.array([[0.2], [0.5]]))
    best = best_of(one, two)
    assert best.mask.tolist() == [[[0.0, 1.0]], [[1.0, 0.0]]]
    np.testing.assert_allclose(best.kl, [[0.2], [0.1]])


def test_auto_against_every_circuit_of_three_among_twelve(case: Case):
    """The search sees 12 candidates only, so that all 220 circuits can be measured."""
    options = replace(case.inputs.options, search=SearchOptions(candidates=12, steps=30))
    before, case.inputs.options = case.inputs.options, options
    try:
        search = Search(case.inputs, (3,))
        (selection,) = run_method(METHODS["auto"], case.inputs, (3,))
    finally:
        case.inputs.options = before
    small = Case(case.inputs, case.transcoder, search.space)
    for prompt in range(case.prompts):
        assert len(small.real(prompt)) == 12
        every = [list(c) for c in itertools.combinations(small.real(prompt).tolist(), 3)]
        values = small.kls(prompt, masks(small, every))
        places = np.asarray(small.space.occurrence[prompt]).tolist()
        found = [places.index(n) for n in selection.kept[prompt]]
        kl = small.kl(prompt, masks(small, [found])[0])
        # Among the best two of a hundred circuits, and close to the very best.
        assert (values < kl - 1e-6).mean() <= 0.02
        assert kl <= values.min() + 0.1 * (np.median(values) - values.min())


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
    np.testing.assert_array_equal(one.kept, two.kept)
    np.testing.assert_allclose(one.score, two.score, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"candidates": 0}, "search.candidates"),
        ({"stages": 0}, "search.stages"),
        ({"steps": 0}, "search.steps"),
        ({"exchanges": -1}, "search.exchanges"),
        ({"rate": 0.0}, "search.rate"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict, name: str):
    with pytest.raises(InputError, match=name):
        check_options(PruneOptions(search=SearchOptions(**settings)))
