"""Which texts are drawn: bands, quantiles, each feature its own."""

from __future__ import annotations

import numpy as np
import pytest
from explain_helpers import RULES, TOKENIZER, WORDS, explained, make_examples, make_shared
from hypothesis import given
from hypothesis import strategies as st

from pie_jax.errors import InputError
from pie_jax.evaluate.presets import PRESETS, get_preset
from pie_jax.evaluate.subject import Subject
from pie_jax.features.baselines import shuffled
from pie_jax.features.corpus.sample import sample_windows
from pie_jax.features.records import FeatureKey
from pie_jax.features.samples import banded, derangement, drawn, quantile_spread
from pie_jax.files.corpus.documents import TextCorpus
from pie_jax.judges import PatternsJudge


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_bands_get_equal_shares_and_the_top_the_rest():
    values = np.arange(1000.0)
    chosen = np.array(banded(values, np.ones(1000, bool), 100, rng()))
    assert len(set(chosen.tolist())) == 100
    counts = np.histogram(chosen, [0, 500, 750, 950, 1001])[0]
    assert counts.tolist() == [22, 22, 22, 34]
    assert set(range(994, 1000)) <= set(chosen.tolist())


def test_a_rare_features_own_windows_are_at_the_top():
    values = np.r_[np.zeros(200), np.arange(1.0, 31.0)]
    common = np.arange(230) < 200
    chosen = set(banded(values, common, 40, rng()))
    # 36 from the bands of the corpus, and the 4 strongest of all.
    assert {226, 227, 228, 229} <= chosen
    assert len(chosen) == 40
    assert sum(i >= 200 for i in chosen) == 4


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 30))
def test_never_more_than_there_is_nor_than_is_asked_for(common, other, count):
    values = np.zeros(common + other)
    chosen = banded(values, np.arange(common + other) < common, count, rng())
    assert len(set(chosen)) == len(chosen) == min(count, common + other)


def test_none_asked_for_is_none():
    assert drawn(range(5), 0, rng()) == []
    assert quantile_spread(5, 0, rng()) == []
    assert banded(np.zeros(5), np.ones(5, bool), 0, rng()) == []


def test_windows_come_from_every_tenth_of_the_range():
    chosen = quantile_spread(100, 50, rng())
    assert np.histogram(chosen, 10, (0, 100))[0].tolist() == [5] * 10
    assert quantile_spread(7, 50, rng()) == list(range(7))


@given(st.integers(2, 30), st.integers(0, 5))
def test_in_a_derangement_nothing_stays(count, seed):
    order = derangement(count, np.random.default_rng(seed))
    assert sorted(order) == list(range(count))
    assert all(i != other for i, other in enumerate(order))


def test_shuffled_gives_every_feature_anothers_text():
    ours = [explained(FeatureKey(0, i), f"text {i}") for i in range(5)]
    pool = [explained(FeatureKey(1, i), f"other {i}") for i in range(5)]
    for trials in (shuffled(ours), shuffled(ours, pool)):
        assert [trial.key for trial in trials] == [one.key for one in ours]
        assert all(trial.key != trial.explanation.key for trial in trials)
    assert any(trial.explanation.key.layer == 1 for trial in shuffled(ours, pool))
    assert shuffled(ours[:1]) == []
    assert shuffled([*ours[:1], explained(FeatureKey(0, 9), None)]) == []


def subject(key: FeatureKey, seed: int = 0) -> Subject:
    shared = make_shared(PatternsJudge(TOKENIZER), seed=seed)
    return Subject(explained(key, 'Fires on "x".'), make_examples(key), shared)


def test_every_feature_draws_its_own_texts_and_always_the_same():
    draws = [
        tuple(subject(key, seed).random("corpus").integers(0, 1000, 20).tolist())
        for key in RULES
        for seed in (0, 1)
    ]
    assert len(set(draws)) == len(draws)
    key = next(iter(RULES))
    assert subject(key).seed("corpus") == subject(key).seed("corpus")
    assert subject(key).seed("corpus") != subject(key).seed("rated")


def test_texts_that_the_explainer_saw_are_not_scored():
    one = subject(FeatureKey(0, 1))
    examples = one.examples
    seen = {text.text for text in one._read(examples.explaining())}
    seen |= {text.text for text in one._read(examples.inactive_for(examples.for_explaining))}
    texts, values, common = one._rateable()
    assert not seen & {text.text for text in texts}
    assert len(texts) == len(values) == len(common)
    assert len({text.text for text in texts}) == len(texts)


def test_corpus_windows_are_drawn_evenly_and_repeatably():
    documents = ["".join(np.roll(WORDS, i)) for i in range(len(WORDS))] * 10
    every = sample_windows(TextCorpus(documents), TOKENIZER, 10_000, window=8)
    some = sample_windows(TextCorpus(documents), TOKENIZER, 30, window=8)
    assert len(some) == 30
    assert set(some) <= set(every)
    assert some == sample_windows(TextCorpus(documents), TOKENIZER, 30, window=8)
    assert some != sample_windows(TextCorpus(documents), TOKENIZER, 30, window=8, seed=1)


def test_presets():
    pie, fade = PRESETS["pie"], PRESETS["fade"]
    assert (pie.writing_calls * pie.texts_a_call, pie.rated) == (5, 20)
    assert (fade.writing_calls, fade.rated, fade.batch, fade.windows) == (15, 500, 15, 50)
    assert (fade.prompts, fade.new_tokens, fade.windows_a_call) == (50, 30, 5)
    assert fade.factors == (-50, -10, -1, 0, 1, 10, 50)
    with pytest.raises(InputError, match="--preset `x`"):
        get_preset("x")
