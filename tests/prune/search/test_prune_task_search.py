"""The search for a task's features: gains, growing, learning, and the choice by prompts kept aside,
each beside a slow version."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from prune_helpers import tiny_model, tiny_pairs, tiny_transcoder
from task_helpers import Key, SlowTask, Task, make_task

from pie_jax.prune.methods import METHODS
from pie_jax.prune.options import PruneOptions, SearchOptions
from pie_jax.prune.search.task_wide.gains import batch_gains
from pie_jax.prune.search.task_wide.search import TaskSearch, _Path

BUDGETS = (2, 5)
OPTIONS = PruneOptions(budgets=BUDGETS, search=SearchOptions(stages=3, steps=6))
PAIRS = tiny_pairs([12] * 4, seed=4)
# KLs of about a nat in float32, from another program.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory):
    model = tiny_model(tmp_path_factory.mktemp("tiny"), layers=2)
    return model, tiny_transcoder(model, features=16, bias=0.0)


@pytest.fixture(scope="module")
def task(case) -> Task:
    """Four prompts in as many batches: one program for any of them."""
    return make_task(*case, PAIRS, OPTIONS, size=1)


def drawn(task: Task, size: int, seed: int) -> set[Key]:
    order = np.random.default_rng(seed).permutation(len(task.keys))
    return {task.keys[u] for u in order[:size]}


def test_kl_and_gains_are_those_of_slow_passes(task: Task):
    circuits = [drawn(task, 3, 0), drawn(task, 8, 1)]
    kl, gain = task.search.measured(np.stack([task.mask(kept) for kept in circuits]))
    for s, kept in enumerate(circuits):
        assert kl[s] == pytest.approx(task.slow.kl(kept), abs=TOLERANCE)
        for u, key in enumerate(task.keys):
            assert gain[s, u] == pytest.approx(task.slow.gain(kept, key), rel=0.02, abs=2e-3)


def test_magnitudes_do_not_cancel(task: Task):
    kept, prompt = drawn(task, 3, 0), SlowTask(task.slow.prompts[:1])
    found = batch_gains(task.batches[0], task.mask(kept)[None], np.array([True]))
    for u, key in enumerate(task.keys):
        assert found.size[0, u] == pytest.approx(prompt.size(kept, key), rel=0.02, abs=2e-3)
    assert (found.size > 1.1 * np.abs(found.gain)).any()


def test_whole_prompts_give_the_same(case, task: Task):
    """`plain` redoes every run from the start, with gathered products."""
    plain = make_task(*case, PAIRS[:1], replace(OPTIONS, plain=True), size=1, keys=task.keys)
    one = TaskSearch(task.batches[:1], 1, task.search.active, OPTIONS)
    mask = np.stack([task.mask(drawn(task, 4, 2)), task.mask(drawn(task, 6, 3))])
    for found, expected in zip(plain.search.measured(mask), one.measured(mask), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-4)


def test_everything_kept_is_the_clean_model_and_nothing_kept_is_not(task: Task):
    masks = np.stack([np.ones(len(task.keys)), np.zeros(len(task.keys))])
    kl, _ = task.search.measured(masks)
    assert kl[0] == pytest.approx(0, abs=1e-5)
    assert kl[1] == pytest.approx(task.slow.kl([]), abs=TOLERANCE)
    assert kl[1] > 0.1


def test_growing_adds_the_largest_summed_gains_at_the_circuit_so_far(task: Task):
    kept: set[Key] = set()
    for end in (1, 2, 5):
        free = [key for key in task.keys if key not in kept]
        ranked = sorted(free, key=lambda key: -task.slow.gain(kept, key))
        kept = kept | set(ranked[: end - len(kept)])
        if end in BUDGETS:
            grown = task.search.grown()[BUDGETS.index(end)]
            assert task.features(grown) == kept


def test_batches_and_their_padding_do_not_matter(case, task: Task):
    """Three prompts in a batch of four, of which the last does not count."""
    whole = make_task(*case, PAIRS, OPTIONS, size=4)
    padded = TaskSearch([whole.batches[0]._replace(real=3)], 3, task.search.active, OPTIONS)
    three = TaskSearch(task.batches[:3], 3, task.search.active, OPTIONS)
    mask = np.stack([task.mask(drawn(task, 4, 2)), task.mask(drawn(task, 6, 3))])
    for found, expected in zip(padded.measured(mask), three.measured(mask), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-4)


def test_learning_keeps_exactly_k_and_is_never_worse_than_its_start(task: Task):
    found = task.search.learned(warm=True)
    assert found.sum(axis=1).tolist() == list(BUDGETS)
    before, _ = task.search.measured(task.search.grown())
    after, _ = task.search.measured(found)
    assert (after <= before).all()
    np.testing.assert_array_equal(task.search.learned(warm=True), found)


def test_learning_from_a_drawn_start_improves_it(task: Task):
    options = replace(OPTIONS, search=SearchOptions(steps=12, rate=1.0))
    search = TaskSearch(task.batches, 4, task.search.active, options)
    drawn_start = np.stack([task.mask(drawn(task, budget, 5)) for budget in BUDGETS])
    path = _Path(drawn_start[None], np.zeros((1, len(task.keys))), np.zeros((1, 0)))
    before, _ = search.measured(drawn_start)
    after, _ = search.measured(search._learn(search._every, path, warm=True)[0])
    assert (after < before - 0.01).all()


def test_auto_is_the_best_on_prompts_kept_aside(case, task: Task):
    """Four prompts: each is kept aside once, while circuits are found on the other three."""
    pairs, kl = list(PAIRS), np.zeros((3, len(BUDGETS)))
    for aside in range(4):
        rest = [pair for index, pair in enumerate(pairs) if index != aside]
        # Over the same features, as what is worth nothing moves no logit but counts in a mean.
        part = make_task(*case, rest, OPTIONS, size=1, keys=task.keys)
        for one, masks in enumerate(three(part)):
            for s, mask in enumerate(masks):
                kl[one, s] += task.slow.kls(part.features(mask))[aside] / 4
    best = np.argmin(kl, axis=0)
    expected = [three(task)[one][s] for s, one in enumerate(best)]
    np.testing.assert_array_equal(task.search.chosen(), np.stack(expected))
    mask, gain = METHODS["auto"].task(task.search)
    np.testing.assert_array_equal(mask, expected)
    np.testing.assert_array_equal(gain, task.search.measured(mask)[1])


def test_one_prompt_cannot_be_kept_aside_and_its_own_kl_decides(task: Task):
    search = TaskSearch(task.batches[:1], 1, task.search.active, OPTIONS)
    chosen, _ = search.measured(search.chosen())
    for other in (search.grown(), search.learned(warm=False)):
        assert (chosen <= search.measured(other)[0]).all()


def three(task: Task) -> list[np.ndarray]:
    """Return the circuits that `auto` chooses among, the last from gains along the path."""
    search, sizes = task.search, np.zeros(len(task.keys))
    kept: set[Key] = set()
    for end in (1, 2, 5):
        mask = task.mask(kept)
        for batch in task.batches:
            sizes += batch_gains(batch, mask[None], np.ones(batch.real, bool)).size[0]
        _, gain = search.measured(np.stack([mask, mask]))
        order = np.argsort(-np.where(mask > 0, np.inf, gain[0]), kind="stable")
        kept = {task.keys[u] for u in order[:end]}
    ranked = np.argsort(-sizes, kind="stable")
    largest = [np.isin(np.arange(len(sizes)), ranked[:budget]) * 1.0 for budget in BUDGETS]
    return [search.grown(), search.learned(warm=False), np.stack(largest)]
