"""The whole of stage III: groups in one table, resumed, counted beforehand."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pyarrow as pa
import pytest
from explain_helpers import (
    RULES,
    TOKENIZER,
    ScriptedChat,
    explained,
    make_examples,
    make_shared,
)

from pie_jax.errors import InputError
from pie_jax.evaluate.results import JOURNAL, SCHEMA, load_evaluation
from pie_jax.evaluate.run import evaluate, evaluate_async
from pie_jax.evaluate.scorers import DEFAULT_SCORERS
from pie_jax.evaluate.statistics import Score
from pie_jax.evaluate.table import difference, markdown, summarise
from pie_jax.features.baselines import (
    active_features,
    own,
    random_features,
    shuffled,
    strongest_features,
)
from pie_jax.features.records import Explanation, FeatureKey
from pie_jax.interpret.explainers import ExplainInputs
from pie_jax.interpret.run import interpret
from pie_jax.judges import LLMJudge, PatternsJudge
from pie_jax.llm import BudgetSpent
from pie_jax.llm.dry_run import DryChat
from pie_jax.prune.results.tables import PruneResult

EXAMPLES = [make_examples(key) for key in RULES]


class CountingJudge(PatternsJudge):
    """Counts what it is asked; stops after `most` writing calls."""

    asked = 0
    most = 10_000

    async def write(self, explanation, count, neutral, draw, seed):
        """Write texts."""
        type(self).asked += 1
        if type(self).asked > type(self).most:
            raise BudgetSpent("the budget is spent")
        return await super().write(explanation, count, neutral, draw, seed)


@pytest.fixture
def judge():
    CountingJudge.asked, CountingJudge.most = 0, 10_000
    return CountingJudge(TOKENIZER)


def explanations() -> list[Explanation]:
    return interpret(EXAMPLES, ExplainInputs(TOKENIZER))


def groups():
    found = explanations()
    return {"kept": own(found), "shuffled": shuffled(found)}


def test_kept_explanations_beat_shuffled_ones_which_are_near_chance(judge, tmp_path):
    table = evaluate(groups(), EXAMPLES, make_shared(judge), out=tmp_path)
    assert table.schema == SCHEMA
    assert table.num_rows == 2 * len(RULES) * len(DEFAULT_SCORERS)
    assert load_evaluation(tmp_path).equals(table)
    means = {(one.group, one.scorer): one for one in summarise(table)}
    for scorer in DEFAULT_SCORERS:
        assert means["kept", scorer].score.value > 0.6
        floor = means["shuffled", scorer]
        assert abs(floor.score.value - floor.chance) < 0.25
        above = difference(table, scorer)
        assert above.interval.low > 0
    text = markdown(summarise(table))
    assert text.count("\n") == 4
    assert "| kept |" in text


def test_a_rerun_repeats_nothing(judge, tmp_path):
    shared = make_shared(judge)
    first = evaluate(groups(), EXAMPLES, shared, out=tmp_path)
    asked = judge.asked
    lines = (tmp_path / JOURNAL).read_bytes()
    assert evaluate(groups(), EXAMPLES, shared, out=tmp_path).equals(first)
    assert judge.asked == asked
    assert (tmp_path / JOURNAL).read_bytes() == lines


def test_a_stopped_run_goes_on_where_it_was(judge, tmp_path):
    shared = make_shared(judge)
    whole = evaluate(groups(), EXAMPLES, shared)
    total, type(judge).asked, type(judge).most = judge.asked, 0, 9
    with pytest.raises(BudgetSpent):
        evaluate(groups(), EXAMPLES, shared, out=tmp_path)
    done = len((tmp_path / JOURNAL).read_text().splitlines())
    assert 0 < done < 2 * len(RULES)
    type(judge).asked, type(judge).most = 0, 10_000
    assert evaluate(groups(), EXAMPLES, shared, out=tmp_path).equals(whole)
    assert judge.asked < total


def test_other_settings_are_scored_anew(judge, tmp_path):
    evaluate(groups(), EXAMPLES, make_shared(judge), out=tmp_path)
    asked = judge.asked
    evaluate(groups(), EXAMPLES, make_shared(judge, seed=1), out=tmp_path)
    assert judge.asked == 2 * asked


def test_order_and_company_change_no_score(judge):
    trials = groups()["kept"]
    shared = make_shared(judge)
    forth = evaluate({"kept": trials}, EXAMPLES, shared).to_pylist()
    back = evaluate({"kept": trials[::-1]}, EXAMPLES[::-1], shared).to_pylist()
    alone = evaluate({"kept": trials[:1]}, EXAMPLES, shared).to_pylist()

    def by_place(rows):
        return sorted(map(json.dumps, rows))

    assert by_place(forth) == by_place(back)
    assert set(by_place(alone)) <= set(by_place(forth))


def test_the_same_trial_in_two_groups_is_scored_once(judge):
    trials = groups()["kept"]
    shared = make_shared(judge)
    evaluate({"kept": trials}, EXAMPLES, shared)
    asked = judge.asked
    table = evaluate({"kept": trials, "top-activation": trials}, EXAMPLES, shared)
    assert judge.asked == 2 * asked
    assert table.num_rows == 2 * len(RULES) * len(DEFAULT_SCORERS)


def test_what_cannot_be_scored_is_counted_and_not_zero(judge):
    key, other = list(RULES)[:2]
    trials = own(
        [explained(key, None), explained(other, "words"), explained(FeatureKey(9, 9), "x")]
    )
    table = evaluate({"kept": trials}, EXAMPLES, make_shared(judge), scorers=["clarity"])
    (one,) = summarise(table)
    assert (one.score.value, one.score.n) == (None, 0)
    assert dict(one.undefined) == {"no-explanation": 1, "not-a-pattern": 1, "no-examples": 1}
    assert "(n 0, 3 undefined)" in markdown([one])
    mixed = evaluate({"kept": [*trials[:1], *groups()["kept"][1:2]]}, EXAMPLES, make_shared(judge))
    assert all(one.score.n == 1 for one in summarise(mixed))
    assert all(one.score.value > 0.5 for one in summarise(mixed))


def test_calls_that_failed_are_made_again_by_a_rerun(tmp_path):
    trials = groups()["kept"][:1]

    def run(answer):
        shared = make_shared(LLMJudge(ScriptedChat(lambda _: answer)))
        table = evaluate({"kept": trials}, EXAMPLES, shared, scorers=["clarity"], out=tmp_path)
        return table["status"].to_pylist()

    assert run("nonsense") == ["all-calls-failed (invalid_reply)"]
    assert run('{"texts": [" drink"]}') == ["ok"]
    assert run("nonsense") == ["ok"]


def test_a_dry_run_counts_calls():
    chat = DryChat(ScriptedChat(lambda _: "").config)
    evaluate({"kept": groups()["kept"]}, EXAMPLES, make_shared(LLMJudge(chat)))
    # Writing 2, rating 2 + 2, detection and fuzzing 4 each, for each feature.
    assert chat.total.calls == len(RULES) * (2 + 4 + 4 + 4)


def test_evaluating_inside_a_running_loop_is_possible(judge):
    trials = {"kept": groups()["kept"][:1]}
    table = asyncio.run(evaluate_async(trials, EXAMPLES, make_shared(judge)))
    assert table.num_rows == len(DEFAULT_SCORERS)


def test_no_results_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no scores"):
        load_evaluation(tmp_path)


def test_baseline_features_are_active_ones():
    scores = pa.table(
        {
            "layer": np.array([0, 0, 1, 1, 2], np.int32),
            "feature": np.array([5, 5, 5, 6, 7], np.int32),
            "activation_clean": np.array([1.0, 3.0, 5.0, 0.5, 0.1], np.float32),
        }
    )
    empty = pa.table({})
    result = PruneResult(scores, empty, empty, empty)
    assert active_features(result)[FeatureKey(0, 5)] == 2.0
    assert strongest_features(result, 2) == [FeatureKey(1, 5), FeatureKey(0, 5)]
    kept = [FeatureKey(1, 5)]
    drawn = random_features(result, kept, 2)
    assert drawn == random_features(result, kept, 2)
    assert len(drawn) == 2
    assert not set(drawn) & set(kept)
    assert len(random_features(result, kept, 99)) == 3


def test_paired_differences_use_features_that_have_both():
    rows = [
        {"group": group, "scorer": "purity", "layer": 0, "feature": f, "value": value}
        for group, f, value in [
            ("kept", 0, 0.9),
            ("shuffled", 0, 0.4),
            ("kept", 1, 0.8),
            ("shuffled", 1, None),
        ]
    ]
    found = difference(pa.Table.from_pylist(rows, SCHEMA), "purity")
    assert isinstance(found, Score)
    assert (found.value, found.n) == (0.5, 1)
