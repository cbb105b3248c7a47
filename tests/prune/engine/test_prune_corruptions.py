"""Circuits found on some corruptions and judged on others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from prune_helpers import (
    SlowPrompt,
    columns,
    places,
    prepare,
    rows_where,
    tiny_model,
    tiny_pairs,
    tiny_transcoder,
)

import pie_jax
from pie_jax.errors import InputError
from pie_jax.models.gradient_rules import FROZEN
from pie_jax.prune.batch.pairs import batches
from pie_jax.prune.checks import check_options
from pie_jax.prune.engine.corruptions import extended, seen_and_held_out, seen_count
from pie_jax.prune.engine.passes import attribute, metric_gradients
from pie_jax.prune.options import PruneOptions
from pie_jax.prune.step import Pruner
from pie_jax.tasks import encode_pairs

OPTIONS = PruneOptions(methods=("fap", "auto"), budgets=(6,), batch_size=2)


def three_versions():
    """Return pairs with three corrupted versions of each prompt."""
    first = tiny_pairs([12, 10], seed=4)
    # Of the same clean prompts: the words that others have in two more draws.
    others = [tiny_pairs([12, 10], seed=seed) for seed in (5, 6)]
    rows = zip(first, *others, strict=True)
    return [replace(a, corrupted=(*a.corrupted, b.clean, c.clean)) for a, b, c in rows]


def test_half_rounded_up_is_seen():
    assert [seen_count(n) for n in (2, 3, 8)] == [1, 2, 4]


@pytest.fixture(scope="module")
def model_and_transcoder(tmp_path_factory: pytest.TempPathFactory):
    model = tiny_model(tmp_path_factory.mktemp("tiny"))
    return model, tiny_transcoder(model, bias=0.0)


def test_methods_see_the_first_half_and_the_rest_judges(model_and_transcoder):
    model, transcoder = model_and_transcoder
    pairs = three_versions()
    options = replace(OPTIONS, judge_corruptions="unseen")
    found, judged = seen_and_held_out(prepare(model, transcoder, pairs, options))
    assert found.problem.delta.shape[1] == 2
    assert judged.problem.delta.shape[1] == 1
    # Over the union of all versions' occurrences.
    np.testing.assert_array_equal(found.occurrences.feature, judged.occurrences.feature)
    whole = prepare(model, transcoder, pairs, OPTIONS)
    np.testing.assert_array_equal(found.occurrences.feature, whole.occurrences.feature)
    gradient = np.asarray(found.attribution("frozen"))
    alone = [
        np.asarray(
            prepare(
                model, transcoder, [replace(p, corrupted=p.corrupted[:2]) for p in pairs], options
            ).attribution("frozen")
        )
    ]
    # Occurrences that only the unseen version has change nothing on the seen ones.
    np.testing.assert_allclose(
        np.sort(np.abs(gradient))[:, -20:], np.sort(np.abs(alone[0]))[:, -20:], rtol=1e-4
    )


def test_a_score_is_the_mean_over_corruptions(model_and_transcoder):
    model, transcoder = model_and_transcoder
    inputs = prepare(model, transcoder, three_versions(), OPTIONS)
    problem = inputs.problem
    _, gradient = metric_gradients(problem, inputs.metric, FROZEN)
    versions = problem.delta.shape[1]
    each = [
        attribute(problem._replace(delta=problem.delta[:, m : m + 1]), gradient)
        for m in range(versions)
    ]
    assert versions == 3
    assert np.abs(each[0] - each[1]).max() > 0.01
    np.testing.assert_allclose(
        inputs.attribution("frozen"), np.mean(each, axis=0), rtol=1e-4, atol=1e-6
    )


def test_a_run_is_judged_on_the_unseen_version(model_and_transcoder):
    model, transcoder = model_and_transcoder
    pairs = three_versions()
    unseen = pie_jax.prune(model, transcoder, pairs, OPTIONS, judge_corruptions="unseen")
    inputs = prepare(model, transcoder, pairs, replace(OPTIONS, judge_corruptions="unseen"))
    _, judged = seen_and_held_out(inputs)
    _, null = judged.ends
    found = unseen.behaviour["kl_last_null"].to_numpy()
    np.testing.assert_allclose(np.unique(found), np.unique(null.kl_last), rtol=1e-5)


@pytest.mark.parametrize("judge", ["same", "unseen"])
def test_made_versions_are_found_on_and_judge_nothing(model_and_transcoder, judge: str):
    """Nothing kept has the KL of a run without them, within 1e-5."""
    model, transcoder = model_and_transcoder
    pairs = three_versions()
    options = replace(OPTIONS, judge_corruptions=judge, methods=("fap",))
    more = replace(options, more_corruptions=1)
    encoded, _ = encode_pairs(pairs, model.tokenizer, needs_target=True)
    (batch,) = batches(extended(encoded, more, "pairs"), 2)
    found, judged = seen_and_held_out(Pruner(model, transcoder, more).prepare(batch))
    given = {"same": 3, "unseen": 2}[judge]
    assert found.problem.delta.shape[1] == given + 1
    assert judged.problem.delta.shape[1] == {"same": 3, "unseen": 1}[judge]
    runs = [pie_jax.prune(model, transcoder, pairs, one) for one in (options, more)]
    null, same = (run.behaviour["kl_last_null"].to_numpy() for run in runs)
    np.testing.assert_allclose(null, same, rtol=1e-5)
    kept = [run.selections["score"].to_numpy() for run in runs]
    assert not np.allclose(*kept)


# What is not kept at zero


def slow_kl_at_zero(inputs, transcoder, result) -> np.ndarray:
    """Return the KL of every row of `behaviour`, a slow pass each."""
    kept, out = columns(result.selections), []
    slow = [SlowPrompt(inputs, transcoder, index) for index in range(len(inputs.rows))]
    for one, clean in zip(slow, inputs.occurrences.clean, strict=True):
        one.delta = clean.tolist()
    behaviour = columns(result.behaviour)
    for prompt, method, budget in zip(
        *(behaviour[name] for name in ("prompt", "method", "budget")), strict=True
    ):
        one = slow[prompt]
        mine = places(rows_where(kept, prompt=prompt, method=method, budget=budget))
        every = places({name: np.array(getattr(one, name)) for name in OCCURRENCE})
        out.append(one.kl(np.flatnonzero(~np.isin(every, mine))))
    return np.array(out)


OCCURRENCE = ("layer", "position", "feature")


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("judge", ["same", "unseen"])
def test_kl_at_zero_is_that_of_slow_passes(model_and_transcoder, judge: str, plain: bool):
    """Within 1e-5 of the largest, with rows of padding and one circuit at a time."""
    model, transcoder = model_and_transcoder
    pairs = three_versions()
    options = replace(
        OPTIONS,
        methods=("fap", "random"),
        budgets=(12, 4),
        judge_zero_features=True,
        judge_corruptions=judge,
        plain=plain,
        batch_size=3,
        chunk_bytes=1,
    )
    result = pie_jax.prune(model, transcoder, pairs, options)
    expected = slow_kl_at_zero(prepare(model, transcoder, pairs, options), transcoder, result)
    found = result.behaviour["kl_zero"].to_numpy()
    assert expected.min() > 0.01
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * expected.max())
    assert not np.allclose(found, result.behaviour["kl_last"].to_numpy(), rtol=0.01)


def test_kl_at_zero_is_the_kl_of_a_run_without_corrupted_prompts(model_and_transcoder):
    """Clean activations alone choose, so that both runs keep the same."""
    pairs = tiny_pairs([16, 9, 12], seed=4)
    settings = {"methods": ("activation-magnitude",), "budgets": (4, 12), "batch_size": 3}
    judged = pie_jax.prune(*model_and_transcoder, pairs, judge_zero_features=True, **settings)
    settings["corruption"] = "zero-features"
    run = pie_jax.prune(*model_and_transcoder, pairs, judge_zero_features=True, **settings)
    same = [columns(result.selections) for result in (judged, run)]
    np.testing.assert_array_equal(*map(places, same))
    kl = run.behaviour["kl_last"].to_numpy()
    np.testing.assert_allclose(judged.behaviour["kl_zero"].to_numpy(), kl, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(run.behaviour["kl_zero"].to_numpy(), kl)
    unasked = pie_jax.prune(*model_and_transcoder, pairs, **settings)
    assert unasked.behaviour["kl_zero"].null_count == len(kl)


def test_what_cannot_be_kept_aside_is_refused(model_and_transcoder):
    with pytest.raises(InputError, match="at least 2 corrupted versions"):
        pie_jax.prune(
            *model_and_transcoder, tiny_pairs([12, 10]), OPTIONS, judge_corruptions="unseen"
        )
    with pytest.raises(InputError, match="zero-features"):
        check_options(PruneOptions(judge_corruptions="unseen", corruption="zero-features"))
    with pytest.raises(InputError, match="--more-corruptions: zero-features"):
        check_options(PruneOptions(more_corruptions=1, corruption="zero-features"))
    with pytest.raises(InputError, match="--more-corruptions: must be"):
        check_options(PruneOptions(more_corruptions=-1))
    with pytest.raises(InputError, match="--judge-corruptions"):
        check_options(PruneOptions(judge_corruptions="all"))
