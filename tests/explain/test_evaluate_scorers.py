"""Every scorer: what a right and a wrong explanation get, and every undefined case."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import numpy as np
import pytest
from explain_helpers import (
    TINY,
    TOKENIZER,
    ScriptedChat,
    asked_ids,
    explained,
    make_examples,
    make_shared,
    random_texts,
)

from pie_jax.errors import InputError
from pie_jax.evaluate.scorers import DEFAULT_SCORERS, SCORERS, get_scorers
from pie_jax.evaluate.scorers.steering_faithfulness import faithfulness
from pie_jax.evaluate.statistics import Score, undefined
from pie_jax.evaluate.subject import Subject
from pie_jax.features.records import FeatureKey
from pie_jax.features.texts import TokenText, split_text
from pie_jax.judges import LLMJudge, PatternsJudge
from pie_jax.llm import TimedOut

KEY = FeatureKey(0, 1)
RIGHT = 'Fires on " drink".'
WRONG = 'Fires on " Ann".'
NO_CALL = "all-calls-failed (timeout)"


def subject(text=RIGHT, judge=None, key=KEY, examples=None, **more) -> Subject:
    shared = make_shared(judge or PatternsJudge(TOKENIZER), **more)
    return Subject(explained(key, text), examples or make_examples(key), shared)


def score(name: str, *arguments, **more) -> Score:
    return asyncio.run(SCORERS[name].score(subject(*arguments, **more)))


def llm(answer) -> LLMJudge:
    return LLMJudge(ScriptedChat(answer if callable(answer) else lambda _: answer))


@pytest.mark.parametrize("name", DEFAULT_SCORERS)
def test_the_right_explanation_scores_high_and_a_wrong_one_by_chance(name):
    right, wrong = score(name), score(name, WRONG)
    assert right.value is not None
    assert wrong.value is not None
    assert wrong.chance is not None
    assert right.value > (0.5 if name == "clarity" else 0.9)
    for one in (right, wrong):
        assert one.interval is not None
        assert one.interval.low <= one.value <= one.interval.high
        assert one.n > 0
    assert wrong.interval is not None
    assert wrong.interval.low <= wrong.chance


@pytest.mark.parametrize("name", DEFAULT_SCORERS)
def test_a_score_is_the_same_every_time(name):
    assert score(name) == score(name)


@pytest.mark.parametrize("name", DEFAULT_SCORERS)
def test_failed_calls_are_no_score(name):
    found = score(name, judge=llm(TimedOut("late")))
    assert (found.value, found.status, found.interval) == (None, NO_CALL, None)
    assert found.failed > 0


@pytest.mark.parametrize("name", DEFAULT_SCORERS)
def test_words_are_no_pattern(name):
    assert score(name, "names of people").status == "not-a-pattern"


# Clarity


def test_clarity_drops_repeated_texts_and_counts_failed_calls():
    answers = iter(['{"texts": [" drink", " drink", " a drink"]}', "nonsense", "nonsense"])
    found = score("clarity", judge=llm(lambda _: next(answers)))
    # 40 corpus texts and two different ones of six; one call of two failed twice.
    assert (found.n, found.failed) == (42, TINY.texts_a_call)
    assert found.status == "ok"


def test_clarity_asks_for_another_draw_after_a_failure():
    samples = []

    def answer(request):
        samples.append(request.sample)
        return "nonsense" if request.sample < 2 else '{"texts": [" drink"]}'

    assert score("clarity", judge=llm(answer)).status == "ok"
    assert sorted(samples) == [0, 1, 2, 3]


def test_clarity_without_texts_is_undefined():
    assert score("clarity", "Fires on any number.").status == "no-synthetic-text"
    assert score("clarity", natural=0).status == "no-corpus-text"


def test_clarity_is_zero_where_the_texts_avoid_the_feature_unless_absolute():
    judge, dense = llm('{"texts": ["went"]}'), make_examples(KEY)

    def everywhere(texts, keys):
        return np.array([[0.0 if text == "went" else 1.0] * len(keys) for text in texts])

    shared = replace(make_shared(judge), activations=everywhere)
    pool = replace(shared.natural, activations=np.ones_like(shared.natural.activations))
    values = {}
    for mode in ("clipped", "signed", "absolute"):
        one = Subject(explained(KEY, "x"), dense, replace(shared, natural=pool, gini=mode))
        values[mode] = asyncio.run(SCORERS["clarity"].score(one)).value
    assert values == {"clipped": 0, "signed": -1, "absolute": 1}


def test_an_activation_that_is_not_finite_is_no_score():
    shared = replace(
        make_shared(PatternsJudge(TOKENIZER)), activations=lambda t, k: np.full((len(t), 1), np.nan)
    )
    one = Subject(explained(KEY, RIGHT), make_examples(KEY), shared)
    found = asyncio.run(SCORERS["clarity"].score(one))
    assert (found.value, found.status) == (None, "activation-not-finite")


# Responsiveness and purity


def always(rating: int):
    return lambda r: json.dumps({"ratings": [{"id": i, "rating": rating} for i in asked_ids(r)]})


@pytest.mark.parametrize("name", ["responsiveness", "purity"])
@pytest.mark.parametrize(
    ("rating", "reason"), [(0, "none-rated-2"), (1, "none-rated-2"), (2, "none-rated-0")]
)
def test_one_sided_ratings_are_undefined(name, rating, reason):
    found = score(name, judge=llm(always(rating)))
    assert (found.value, found.status) == (None, reason)
    assert found.n > 0


def test_few_texts_rated_2_lead_to_one_more_round_of_other_texts():
    seen: list[str] = []

    def answer(request):
        content = request.messages[-1].content
        seen.extend(json.loads(x)["text"] for x in content.splitlines() if x[:1] == "{")
        return always(0)(request)

    found = score("responsiveness", judge=llm(answer))
    # Texts, not pairs of a text and something; none twice.
    assert len(seen) == len(set(seen)) == found.n == 2 * TINY.rated


def test_enough_texts_rated_2_end_it():
    assert score("purity").n <= TINY.rated


def test_responsiveness_and_purity_share_ratings():
    chat = ScriptedChat(always(2))
    one = subject(judge=LLMJudge(chat))
    asyncio.run(SCORERS["responsiveness"].score(one))
    asked = len(chat.requests)
    asyncio.run(SCORERS["purity"].score(one))
    assert len(chat.requests) == asked


def test_texts_rated_1_are_on_neither_side():
    one = subject(judge=llm(always(1)))
    rated = asyncio.run(one.ratings())
    assert len(rated.rated(0)) == len(rated.rated(2)) == 0
    assert len(rated.rated(1)) == len(rated.ratings) > 0


def test_without_a_corpus_the_features_own_windows_are_rated():
    assert score("responsiveness", natural=0).value is not None


@pytest.mark.parametrize("name", ["responsiveness", "purity"])
def test_without_any_text_there_is_nothing_to_rate(name):
    none = replace(make_examples(KEY), for_scoring=frozenset())
    found = score(name, natural=0, examples=none)
    assert (found.value, found.status) == (None, "no-text-to-rate")


# Detection and fuzzing


@pytest.mark.parametrize("name", ["detection", "fuzzing"])
def test_too_few_windows_are_reported_as_such(name):
    rare = make_examples(KEY, count=6)
    assert score(name, examples=rare).status == "too-few-activating-windows"
    dense = replace(make_examples(KEY), inactive=())
    assert score(name, examples=dense).status == "too-few-silent-windows"


def test_fuzzing_marks_the_active_tokens_and_random_ones():
    shown = []

    class Spy(PatternsJudge):
        async def match(self, explanation, texts, marks=None, attempt=0):
            shown.extend((texts[i], marks[i]) for i in texts)
            return await super().match(explanation, texts, marks, attempt)

    found = score("fuzzing", judge=Spy(TOKENIZER))
    true = [marks for text, marks in shown if text.maximum > 0]
    assert len(true) == TINY.windows
    assert all(m == t.strongest() for t, m in shown if t.maximum > 0)
    assert sum(map(len, true)) == sum(len(m) for t, m in shown if t.maximum == 0)
    assert dict(found.detail)["f1"] == 1.0


def test_the_judge_sees_windows_in_random_order():
    order = []

    class Spy(PatternsJudge):
        async def match(self, explanation, texts, marks=None, attempt=0):
            order.extend(texts[i].maximum > 0 for i in sorted(texts))
            return await super().match(explanation, texts, marks, attempt)

    score("detection", judge=Spy(TOKENIZER))
    assert sum(order) == TINY.windows
    assert order != sorted(order, reverse=True)


# Steering faithfulness


class Steered:
    """Writes the feature's word where it is steered up."""

    def __init__(self, rate=1.0):
        self.calls: list[float] = []
        self.rate = rate

    def continuations(self, key, activation, prompts, new_tokens, most):
        self.calls.append(activation)
        n = round(self.rate * len(prompts)) if activation > 0 else 0
        word = [" drink"] * n + [" a"] * (len(prompts) - n)
        return [split_text(TOKENIZER, text) for text in word]


def steer(steerer, clarity=0.9, responsiveness=0.9, **more) -> Score:
    one = subject(steerer=steerer, **more)
    one.scores = {
        "clarity": Score(clarity, 9) if clarity is not None else undefined("x"),
        "responsiveness": Score(responsiveness, 9),
    }
    return asyncio.run(SCORERS["steering-faithfulness"].score(one))


def test_steering_reaches_what_the_text_says():
    steerer = Steered(0.5)
    found = steer(steerer)
    assert found.value == 0.5
    top = make_examples(KEY).maximum
    assert steerer.calls == [factor * top for factor in TINY.factors]
    assert dict(found.detail)["rated 2 at 50"] == 0.5


def test_faithfulness_by_hand():
    factors = (-1.0, 0.0, 1.0)
    clear = np.array([[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, np.nan, 0]], float)
    found = faithfulness(clear, factors)
    # (2/3 - 1/4) / (1 - 1/4)
    assert found.value == pytest.approx(5 / 9)
    assert found.n == 11
    # Steering that makes it worse is 0, not negative.
    assert faithfulness(clear[[0, 1, 0]], factors).value == 0


@pytest.mark.parametrize(("base", "reason"), [(1.0, "saturated"), (np.nan, "none-rated-at-0")])
def test_faithfulness_without_room_or_base_is_undefined(base, reason):
    clear = np.array([[0, 1], [base, base], [1, 1]], float)
    found = faithfulness(clear, (-1.0, 0.0, 1.0))
    assert (found.value, found.status) == (None, reason)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"clarity": 0.49}, "clarity-or-responsiveness-too-low"),
        ({"responsiveness": 0.0}, "clarity-or-responsiveness-too-low"),
        ({"clarity": None}, "needs-clarity-and-responsiveness"),
        ({"natural": 0}, "no-corpus-text"),
        ({"examples": replace(make_examples(KEY), maximum=0.0)}, "never-fires"),
        ({"judge": llm(TimedOut("late"))}, NO_CALL),
    ],
)
def test_steering_is_undefined_where_it_says_nothing(more, reason):
    assert steer(Steered(), **more).status == reason


def test_steering_needs_a_model():
    assert steer(None).status == "no-model"


def test_scorers_by_name():
    assert [s.name for s in get_scorers(["purity", "clarity"])] == ["clarity", "purity"]
    with pytest.raises(InputError, match="--scorers `x`"):
        get_scorers(["x"])
    with pytest.raises(InputError, match="also needs clarity"):
        get_scorers(["steering-faithfulness", "responsiveness"])


def test_texts_are_what_the_model_reads():
    text = random_texts(1, 0)[0]
    assert split_text(TOKENIZER, text).text == text
    assert TokenText((" a", "b")).maximum == 0
