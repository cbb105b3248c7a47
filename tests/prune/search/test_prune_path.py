"""Paths of circuits from either end: FAP is one stage, and every stage is what a slow one gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from prune_helpers import prepare, tiny_model, tiny_pairs, tiny_transcoder
from search_helpers import Case, case

from pie_jax.errors import InputError
from pie_jax.prune.checks import check_options
from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.methods import METHODS, Selection, run_method
from pie_jax.prune.options import PruneOptions, SearchOptions
from pie_jax.prune.search.path import nested_path, path_ends

__all__ = ["case"]


def staged(inputs: BatchEvaluator, budgets: tuple[int, ...], **search) -> list[Selection]:
    return run_method(METHODS["staged"], with_search(inputs, **search), budgets)


def with_search(inputs: BatchEvaluator, **search) -> BatchEvaluator:
    options = replace(inputs.options, search=SearchOptions(**search))
    return BatchEvaluator(inputs.problem, inputs.prompts, inputs.occurrences, inputs.rows, options)


@pytest.mark.parametrize("metric", ["logit-diff", "logsumexp"])
@pytest.mark.parametrize("budget", [1, 7, 40])
def test_one_stage_at_the_clean_point_under_the_frozen_rule_is_fap(tmp_path, metric, budget):
    model = tiny_model(tmp_path)
    transcoder = tiny_transcoder(model, bias=0.0)
    options = PruneOptions(metric=metric)
    inputs = prepare(model, transcoder, tiny_pairs([12, 10], seed=4), options)
    (ours,) = staged(
        inputs, (budget,), start="everything", objective="metric", rule="frozen", stages=1
    )
    (fap,) = run_method(METHODS["fap"], inputs, (budget,))
    np.testing.assert_array_equal(ours.kept, fap.kept)
    np.testing.assert_allclose(ours.score, fap.score, rtol=1e-4, atol=1e-6)


def test_the_usual_settings_of_the_path_are_the_grown_circuits(case: Case):
    """The general path over all occurrences equals the fast one over candidates, where only the
    circuit counts."""
    ends = [1, 3, 6]
    path = nested_path(with_search(case.inputs), ends)
    found = staged(case.inputs, tuple(ends), stages=1, complement=0.0)
    for at, size in enumerate(ends):
        grown = found[at]
        for prompt, kept in enumerate(grown.kept):
            members = np.flatnonzero(np.asarray(path.mask[prompt, at]))
            assert sorted(members.tolist()) == sorted(kept.tolist())
            assert len(members) == size


@pytest.mark.parametrize("objective", ["kl", "metric"])
def test_shrinking_drops_the_least_at_every_stage(case: Case, objective: str):
    inputs = with_search(case.inputs, start="everything", objective=objective, stages=6)
    ends = path_ends(inputs, (4, 9))
    assert {4, 9} <= set(ends)
    assert 6 <= len(ends) <= 8
    path = nested_path(inputs, ends)
    mask, score = np.asarray(path.mask), np.asarray(path.score)
    for prompt, count in enumerate(inputs.occurrences.count):
        before = np.arange(count)
        for at in reversed(range(len(ends))):
            worth = np.abs(score[prompt, at]) if objective == "metric" else score[prompt, at]
            order = before[np.argsort(-worth[before], kind="stable")]
            kept = np.flatnonzero(mask[prompt, at])
            assert kept.tolist() == sorted(order[: ends[at]].tolist())
            before = kept


def test_scores_of_a_stage_are_slopes_of_kl_at_the_circuit_before(case: Case):
    """From the second stage down; in the first, at the clean run, KL has no gradient."""
    inputs = with_search(case.inputs, start="everything", stages=4)
    ends = path_ends(inputs, (5,))
    path = nested_path(inputs, ends)
    for prompt in range(case.prompts):
        places = np.asarray(case.space.occurrence[prompt])
        before = np.asarray(path.mask[prompt, 1])
        members = np.flatnonzero((places >= 0) & (before[places] > 0))
        _, gain = case.loss_and_gain(prompt, members)
        real = places >= 0
        slope = np.asarray(path.score[prompt, 0])[places[real]]
        np.testing.assert_allclose(slope, gain[real], rtol=1e-3, atol=1e-4)
        assert np.abs(np.asarray(path.score[prompt, -1])).max() > 1e-3


def test_shrunk_circuits_behave_better_than_random_ones(case: Case):
    (shrunk,) = staged(case.inputs, (12,), start="everything", stages=8)
    (drawn,) = run_method(METHODS["random"], case.inputs, (12,))
    kept = np.stack([shrunk.kept, drawn.kept], axis=1)
    behaviour, _ = case.inputs.behaviour(kept)
    assert (behaviour.kl_last[:, 0] < behaviour.kl_last[:, 1]).all()


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"start": "half"}, "search.start"),
        ({"objective": "loss"}, "search.objective"),
        ({"rule": "none"}, "search.rule"),
        ({"start": "everything", "exchanges": 1}, "search.exchanges"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict, name: str):
    with pytest.raises(InputError, match=name):
        check_options(PruneOptions(search=SearchOptions(**settings)))
