"""Patterns: the grammar, matching, learning planted rules, composing texts, explaining."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from explain_helpers import RULES, TOKENIZER, make_examples, random_texts, token_activations
from hypothesis import given
from hypothesis import strategies as st

from pie_jax.features.records import FeatureKey
from pie_jax.features.texts import TokenText, split_text, token_strings, window_text
from pie_jax.interpret.explainers import ExplainInputs, get_explainer
from pie_jax.patterns import Pattern, PatternError, TokenSet, learn_patterns, match, parse, write
from pie_jax.patterns.compose import compose
from pie_jax.patterns.measure import measure
from pie_jax.patterns.pattern import KINDS

Strings = st.lists(st.text(min_size=1), min_size=1, max_size=3, unique=True).map(tuple)
Sets = st.one_of(
    st.sampled_from(list(KINDS)).map(TokenSet), Strings.map(lambda s: TokenSet(listed=s))
)
Patterns = st.lists(
    st.builds(
        Pattern,
        token=Sets,
        previous=st.none() | Sets,
        second_previous=st.none() | Sets,
        next=st.none() | Sets,
        earlier=st.just(()) | Strings,
        seen=st.none() | st.booleans(),
        previous_seen=st.booleans(),
        within=st.none() | st.integers(1, 9),
    ),
    min_size=1,
    max_size=3,
).map(tuple)


@given(Patterns, st.text(max_size=30))
def test_a_sentence_is_read_back_whatever_its_tokens_are(patterns, note):
    sentence = write(patterns, note)
    assert parse(sentence) == patterns


def test_the_sentence_is_one_that_people_read():
    pattern = Pattern(
        TokenSet(listed=(" Mary", " John")), previous=TokenSet("any punctuation"), seen=True
    )
    assert write([pattern, Pattern(TokenSet(listed=('"; ',)))]) == (
        'Fires on " Mary" or " John", right after any punctuation, seen before; also on "\\"; ".'
    )


@pytest.mark.parametrize(
    "sentence",
    [
        "",
        "names of people",
        "Fires on .",
        "Fires on 3.",
        "Fires on [1].",
        'Fires on "a"',
        'Fires on "a". And more',
        'Fires on "a", seen before, seen before.',
        'Fires on "a", within the first "b" tokens.',
        'Fires on "a", on Mondays.',
    ],
)
def test_other_sentences_are_no_patterns(sentence):
    with pytest.raises(PatternError):
        parse(sentence)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (Pattern(TokenSet(listed=(" a",))), [0, 2, 5]),
        (Pattern(previous=TokenSet(listed=(" a",))), [1, 3]),
        (Pattern(second_previous=TokenSet(listed=(" a",))), [2, 4]),
        (Pattern(next=TokenSet(listed=(" a",))), [1, 4]),
        (Pattern(TokenSet(listed=(" a",)), seen=True), [2, 5]),
        (Pattern(TokenSet(listed=(" a",)), seen=False), [0]),
        (Pattern(previous_seen=True), [3]),
        (Pattern(earlier=(" c", "\n")), [4, 5]),
        (Pattern(within=2), [0, 1]),
        (Pattern(TokenSet("any line break")), [4]),
        (Pattern(TokenSet("any capitalised word")), [1]),
    ],
)
def test_matching_by_hand(pattern, expected):
    tokens = (" a", " Bo", " a", " c", "\n", " a")
    assert np.flatnonzero(match([pattern], tokens)).tolist() == expected


def texts_of(key: FeatureKey, seed: int) -> list[TokenText]:
    return [
        TokenText(split_text(TOKENIZER, text).tokens, tuple(token_activations(text, key)))
        for text in random_texts(120, seed)
    ]


@pytest.mark.parametrize("key", list(RULES))
def test_planted_rules_are_found_and_hold_on_other_texts(key):
    patterns = learn_patterns(texts_of(key, 0))
    fit = measure(patterns, texts_of(key, 1))
    assert fit.precision is not None
    assert fit.recall is not None
    assert min(fit) > 0.95
    assert parse(write(patterns)) == patterns


def test_nothing_is_learned_from_nothing():
    assert learn_patterns([]) == ()
    assert learn_patterns([TokenText((" a",), (0.0,)), TokenText(())]) == ()


def test_a_feature_that_fires_everywhere_is_said_to():
    texts = [TokenText(tuple(" abca"), (1.0,) * 5), TokenText(tuple(" cab"), (2.0,) * 4)]
    assert write(learn_patterns(texts)) == "Fires on any token."


def test_a_single_window_gives_its_strongest_token():
    assert write(learn_patterns([TokenText((" a", " b"), (0.0, 2.0))])) == 'Fires on " b".'


def test_precision_and_recall_by_hand():
    pattern = Pattern(TokenSet(listed=(" a",)))
    texts = [TokenText((" a", " b"), (3.0, 1.0)), TokenText((" a",), (0.0,))]
    assert measure([pattern], texts) == (0.5, 0.75)
    assert measure([pattern], [TokenText((" b",), (0.0,))]) == (None, None)


@pytest.mark.parametrize(
    "pattern",
    [
        Pattern(TokenSet(listed=(" Mary",))),
        Pattern(TokenSet(listed=(" Mary",)), previous=TokenSet(listed=(" to",))),
        Pattern(previous=TokenSet(listed=(" to",)), second_previous=TokenSet(listed=(" a",))),
        Pattern(TokenSet(listed=(" Mary",)), seen=True, earlier=(" John",)),
        Pattern(TokenSet("any capitalised word"), seen=False, within=4),
        Pattern(TokenSet(listed=(" the",)), next=TokenSet(listed=(" store",))),
        Pattern(previous_seen=True),
    ],
)
def test_composed_texts_match_and_differ(pattern):
    neutral = [split_text(TOKENIZER, text).tokens for text in random_texts(20, 5)]

    def split(text: str) -> tuple[str, ...]:
        return split_text(TOKENIZER, text).tokens

    texts = compose([pattern], neutral, 10, np.random.default_rng(0), split)
    assert len(set(texts)) > 5
    assert all(any(match([pattern], split(text))) for text in texts)


def test_a_pattern_that_nothing_can_match_gives_no_text():
    pattern = Pattern(TokenSet("any number"))
    texts = compose([pattern], [(" a", " b")], 3, np.random.default_rng(0), str.split)
    assert texts == []


def explain(examples):
    inputs = ExplainInputs(TOKENIZER)
    return asyncio.run(get_explainer("patterns").explain(examples, inputs))


def test_an_explanation_says_that_no_llm_made_it_and_how_it_holds():
    found = explain(make_examples(FeatureKey(0, 1)))
    assert (found.explainer, found.model, found.status, found.cost) == ("patterns", None, "ok", 0.0)
    assert found.text == (
        'Fires on " drink". (patterns, no LLM; on held-out windows precision 1.00, recall 1.00)'
    )


def test_windows_for_scoring_are_not_learned_from():
    examples = make_examples(FeatureKey(0, 1))
    found = explain(examples)
    assert set(found.example_ids) == set(examples.for_explaining)
    assert not set(found.example_ids) & examples.for_scoring


def test_a_feature_without_windows_has_no_explanation():
    found = explain(make_examples(FeatureKey(0, 1), count=0))
    assert (found.text, found.status) == (None, "no-examples")


def test_characters_spread_over_tokens_stand_with_the_first():
    class Bytes:
        def encode(self, text: str) -> list[int]:
            return [0, *text.encode()]

        def token(self, index: int) -> str:
            return self.decode([index])

        def decode(self, ids) -> str:
            return bytes(ids).decode("utf-8", "replace")

    assert token_strings(Bytes(), [*"aé".encode(), 98]) == ("a", "é", "", "b")


def test_marks_are_those_above_a_share_of_the_windows_own_maximum():
    text = TokenText((" a", " b", "<<", " d"), (1.0, 0.9, 0.0, 0.6))
    assert text.strongest() == {0, 1}
    assert text.marked(text.strongest()) == "<< a b>>< < d"
    assert TokenText((" a",), (0.0,)).strongest() == frozenset()


def test_bos_is_no_part_of_a_window():
    window = make_examples(FeatureKey(0, 1)).top[0]
    text = window_text(TOKENIZER, window)
    assert "<bos>" not in text.tokens
    assert len(text.tokens) == len(text.activations) == len(window.tokens) - 1
