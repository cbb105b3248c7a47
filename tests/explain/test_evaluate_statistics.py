"""Scores against hand-computed cases and scikit-learn; undefined cases are None with a reason."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pie_jax.evaluate import statistics as stats

Activations = st.lists(st.integers(0, 3), min_size=1, max_size=12)


def array(values) -> np.ndarray:
    return np.array(values, np.float64)


def test_auc_counts_ties_as_half():
    # Pairs (positive, negative): 0-0 tie, 0-1 loss, 2-0 win, 2-1 win.
    assert stats.auc(array([0, 1]), array([0, 2])) == pytest.approx(2.5 / 4)
    assert stats.gini(array([0, 1]), array([0, 2])) == pytest.approx(0.25)


def test_a_feature_that_never_fires_scores_nothing():
    zeros = np.zeros(5)
    assert stats.gini(zeros, zeros) == 0
    assert stats.gini_score(zeros, zeros).value == 0


def test_texts_that_avoid_the_feature_score_zero_unless_the_published_absolute_is_asked_for():
    corpus, written = array([1, 2, 3]), np.zeros(3)
    assert stats.gini(corpus, written, "signed") == -1
    assert stats.gini(corpus, written, "clipped") == 0
    assert stats.gini(corpus, written, "absolute") == 1
    assert dict(stats.gini_score(corpus, written).detail)["signed"] == -1


def test_average_precision_groups_ties():
    # At 2: 1 of 1 is positive; at 0 one of the two others: 1/2 x 1 + 1/2 x 2/3.
    assert stats.average_precision(array([0]), array([2, 0])) == pytest.approx(5 / 6)
    # All tied: the chance level, in whatever order the texts come.
    assert stats.average_precision(np.zeros(3), np.zeros(1)) == pytest.approx(1 / 4)


def test_purity_reports_its_chance_level():
    score = stats.average_precision_score(np.zeros(6), np.zeros(2))
    assert (score.value, score.chance, score.n) == (0.25, 0.25, 8)


@pytest.mark.parametrize("seed", range(20))
def test_auc_and_average_precision_equal_scikit_learn_with_many_ties(seed):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    negative = np.maximum(0, rng.integers(-6, 4, rng.integers(1, 60))).astype(float)
    positive = np.maximum(0, rng.integers(-3, 5, rng.integers(1, 60))).astype(float)
    truth = np.r_[np.zeros(len(negative)), np.ones(len(positive))]
    values = np.r_[negative, positive]
    assert stats.auc(negative, positive) == pytest.approx(metrics.roc_auc_score(truth, values))
    assert stats.average_precision(negative, positive) == pytest.approx(
        metrics.average_precision_score(truth, values)
    )


@given(Activations, Activations)
def test_order_does_not_matter(negative, positive):
    backwards = array(negative)[::-1], array(positive)[::-1]
    for function in (stats.auc, stats.average_precision):
        assert function(array(negative), array(positive)) == pytest.approx(function(*backwards))


def test_balanced_accuracy_and_f1_by_hand():
    truth = np.array([True, True, True, False])
    guess = np.array([True, True, False, True])
    assert stats.balanced_accuracy(truth, guess) == pytest.approx((2 / 3 + 0) / 2)
    assert stats.f1(truth, guess) == pytest.approx(4 / 6)
    assert stats.f1(np.zeros(2, bool), np.zeros(2, bool)) is None
    score = stats.accuracy_score(truth, guess)
    assert score.chance == 0.5
    assert dict(score.detail)["f1"] == pytest.approx(4 / 6)


@pytest.mark.parametrize(
    ("negative", "positive", "reason"),
    [
        ([0.0], [], "no-positive-texts"),
        ([], [0.0], "no-negative-texts"),
        ([0.0], [np.nan], "activation-not-finite"),
        ([np.inf], [0.0], "activation-not-finite"),
    ],
)
def test_undefined_scores_are_none_with_their_reason(negative, positive, reason):
    for score in (
        stats.gini_score(array(negative), array(positive)),
        stats.average_precision_score(array(negative), array(positive)),
    ):
        assert (score.value, score.interval, score.status) == (None, None, reason)


def test_one_sided_guesses_are_undefined():
    yes = np.ones(3, bool)
    assert stats.accuracy_score(yes, yes).status == "no-negative-texts"
    assert stats.accuracy_score(~yes, yes).status == "no-positive-texts"


def test_a_mean_leaves_undefined_values_out():
    score = stats.mean_score(array([1.0, np.nan, 0.0]))
    assert (score.value, score.n) == (0.5, 2)
    assert stats.mean_score(array([np.nan])).status == "nothing-defined"


def test_intervals_hold_the_value_and_shrink_with_more_texts():
    rng = np.random.default_rng(0)

    def width(n: int) -> float:
        negative, positive = rng.integers(0, 5, n), rng.integers(1, 6, n)
        widths = []
        for make in (stats.gini_score, stats.average_precision_score):
            score = make(negative.astype(float), positive.astype(float))
            assert score.value is not None
            assert score.interval is not None
            assert score.interval.low <= score.value <= score.interval.high
            widths.append(score.interval.high - score.interval.low)
        return max(widths)

    assert width(400) < width(40)
