"""Circuits found on some corruptions and judged on others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from prune_helpers import prepare, tiny_model, tiny_pairs, tiny_transcoder

import pie_jax
from pie_jax.errors import InputError
from pie_jax.prune.checks import check_options
from pie_jax.prune.corruptions import found_and_judged, seen_count
from pie_jax.prune.options import PruneOptions

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
    found, judged = found_and_judged(prepare(model, transcoder, pairs, options))
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


def test_a_run_is_judged_on_the_unseen_version(model_and_transcoder):
    model, transcoder = model_and_transcoder
    pairs = three_versions()
    unseen = pie_jax.prune(model, transcoder, pairs, OPTIONS, judge_corruptions="unseen")
    inputs = prepare(model, transcoder, pairs, replace(OPTIONS, judge_corruptions="unseen"))
    _, judged = found_and_judged(inputs)
    _, null = judged.ends
    found = unseen.behaviour["kl_last_null"].to_numpy()
    np.testing.assert_allclose(np.unique(found), np.unique(null.kl_last), rtol=1e-5)


def test_what_cannot_be_kept_aside_is_refused(model_and_transcoder):
    with pytest.raises(InputError, match="at least 2 corrupted versions"):
        pie_jax.prune(
            *model_and_transcoder, tiny_pairs([12, 10]), OPTIONS, judge_corruptions="unseen"
        )
    with pytest.raises(InputError, match="zero-features"):
        check_options(PruneOptions(judge_corruptions="unseen", corruption="zero-features"))
    with pytest.raises(InputError, match="--judge-corruptions"):
        check_options(PruneOptions(judge_corruptions="all"))
