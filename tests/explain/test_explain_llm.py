"""The LLM explainer and explanations.jsonl: what is asked, what fails, what is resumed."""

from __future__ import annotations

import asyncio
import json

import pytest
from explain_helpers import RULES, TOKENIZER, ScriptedChat, asked_ids, make_examples

from pie_jax.errors import InputError
from pie_jax.features.records import FeatureKey
from pie_jax.features.texts import window_text
from pie_jax.interpret.explainers import ExplainInputs, ExplainOptions, get_explainer
from pie_jax.interpret.explainers.llm import spread
from pie_jax.interpret.run import EXPLANATIONS, interpret, load_explanations
from pie_jax.judges import LLMJudge
from pie_jax.llm import BudgetSpent, RequestRefused, Truncated
from pie_jax.llm.dry_run import DryChat

KEY = FeatureKey(0, 1)
GOOD = '{"explanation": "the word drink"}'


def explain(answer, examples=None, **more):
    chat = ScriptedChat(answer if callable(answer) else lambda _: answer)
    inputs = ExplainInputs(TOKENIZER, chat, **more)
    examples = examples or make_examples(KEY)
    return asyncio.run(get_explainer("llm").explain(examples, inputs)), chat


def test_windows_are_marked_json_lines_of_the_explaining_side_only():
    examples = make_examples(KEY)
    found, chat = explain(GOOD, examples, promoted={KEY: [" a", '"']})
    assert (found.text, found.status, found.model) == ("the word drink", "ok", "scripted")
    assert found.cost == 0.5
    prompt = chat.requests[0].messages[-1].content
    lines = [json.loads(line) for line in prompt.splitlines() if line.startswith("{")]
    shown = [window_text(TOKENIZER, window) for window in examples.explaining()]
    marked = {text.marked(text.strongest()) for text in shown}
    assert {line["text"] for line in lines} <= marked
    assert all("<<" in line["text"] for line in lines)
    hidden = {window_text(TOKENIZER, window).text for window in examples.scoring()}
    assert not hidden & {line["text"].replace("<<", "").replace(">>", "") for line in lines}
    assert set(found.example_ids) <= examples.for_explaining
    assert json.dumps([" a", '"']) in prompt


def test_windows_are_spread_over_all_strengths():
    assert spread(range(5), 9) == [0, 1, 2, 3, 4]
    assert spread(range(101), 5) == [0, 25, 50, 75, 100]
    assert spread([], 3) == []


def test_contrast_shows_silent_windows_unmarked():
    _, chat = explain(GOOD, options=ExplainOptions(shown=3, contrast=2))
    prompt = chat.requests[0].messages[-1].content
    silent = prompt.split("not active:")[1]
    assert "<<" not in silent
    assert asked_ids(chat.requests[0]) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (Truncated("cut off"), "length"),
        (RequestRefused("no"), "refused"),
        ("I cannot say.", "invalid_reply"),
        ('{"explanation": ""}', "invalid_reply"),
    ],
)
def test_a_failed_call_is_a_status_and_no_text(answer, status):
    found, _ = explain(answer)
    assert (found.text, found.status) == (None, status)


@pytest.mark.parametrize(
    "reply",
    [GOOD, f"```json\n{GOOD}\n```", f"Sure! {GOOD}", "[EXPLANATION]: the word drink"],
)
def test_fences_and_prose_around_an_explanation_do_no_harm(reply):
    assert explain(reply)[0].text == "the word drink"


def test_a_feature_without_windows_costs_nothing():
    found, chat = explain(GOOD, make_examples(KEY, count=0))
    assert (found.status, chat.requests) == ("no-examples", [])


def test_of_several_candidates_the_one_that_detects_best_is_kept():
    texts = iter(["always", "drink", "never"])

    def judge_answer(request):
        ids = asked_ids(request)
        lines = [json.loads(x) for x in request.messages[-1].content.splitlines() if x[:1] == "{"]
        if '"drink"' in request.messages[-1].content:
            ids = [line["id"] for line in lines if " drink" in line["text"]]
        return json.dumps({"matches": [] if '"never"' in request.messages[-1].content else ids})

    found, chat = explain(
        lambda _: json.dumps({"explanation": next(texts)}),
        judge=LLMJudge(ScriptedChat(judge_answer)),
        options=ExplainOptions(candidates=3),
    )
    assert found.text == "drink"
    assert found.cost == 1.5
    assert [request.sample for request in chat.requests] == [0, 1, 2]


def test_candidates_need_a_judge_and_an_llm_explainer_a_server():
    texts = iter("ab")
    with pytest.raises(InputError, match="judge"):
        explain(
            lambda _: json.dumps({"explanation": next(texts)}), options=ExplainOptions(candidates=2)
        )
    with pytest.raises(InputError, match="--base-url"):
        asyncio.run(get_explainer("llm").explain(make_examples(KEY), ExplainInputs(TOKENIZER)))
    with pytest.raises(InputError, match="--explainer `x`"):
        get_explainer("x")


# explanations.jsonl


def run(folder, answer, keys=tuple(RULES)):
    chat = ScriptedChat(answer if callable(answer) else lambda _: answer)
    examples = [make_examples(key, count=120) for key in keys]
    inputs = ExplainInputs(TOKENIZER, chat)
    return interpret(examples, inputs, explainer="llm", out=folder), chat


def test_each_explanation_is_on_disk_and_is_not_asked_for_again(tmp_path):
    found, chat = run(tmp_path, GOOD)
    assert len(chat.requests) == len(RULES)
    assert load_explanations(tmp_path) == found
    again, chat = run(tmp_path, RequestRefused("asked again"))
    assert (again, chat.requests) == (found, [])


def test_failures_are_tried_again_and_the_rest_is_kept(tmp_path):
    answers = iter([GOOD, Truncated("cut"), GOOD, GOOD])
    run(tmp_path, lambda _: next(answers))
    found, chat = run(tmp_path, GOOD)
    assert len(chat.requests) == 1
    assert all(one.status == "ok" for one in found)


def test_a_spent_budget_stops_and_leaves_what_is_finished(tmp_path):
    answers = iter([GOOD, GOOD, BudgetSpent("spent"), BudgetSpent("spent")])
    with pytest.raises(BudgetSpent):
        run(tmp_path, lambda _: next(answers))
    assert len(load_explanations(tmp_path)) == 2
    _, chat = run(tmp_path, GOOD)
    assert len(chat.requests) == 2


def test_a_line_cut_off_by_a_kill_is_dropped(tmp_path):
    run(tmp_path, GOOD)
    path = tmp_path / EXPLANATIONS
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    found, chat = run(tmp_path, GOOD)
    assert len(chat.requests) == 1
    assert path.read_bytes() == whole
    assert len(found) == len(RULES)


def test_a_strange_file_is_refused(tmp_path):
    (tmp_path / EXPLANATIONS).write_text('{"a": 1}\n')
    with pytest.raises(InputError, match="line 1"):
        run(tmp_path, GOOD)
    with pytest.raises(InputError, match="no explanations"):
        load_explanations(tmp_path / "other")


def test_two_explainers_share_the_file(tmp_path):
    run(tmp_path, GOOD)
    examples = [make_examples(key, count=120) for key in RULES]
    interpret(examples, ExplainInputs(TOKENIZER), out=tmp_path)
    assert len(load_explanations(tmp_path)) == 2 * len(RULES)
    assert len(load_explanations(tmp_path, "patterns")) == len(RULES)
    assert {one.text for one in load_explanations(tmp_path, "llm")} == {"the word drink"}


def test_a_dry_run_counts_the_calls_and_asks_nobody():
    config = ScriptedChat(lambda _: GOOD).config
    chat = DryChat(config)
    examples = [make_examples(key, count=120) for key in RULES]
    interpret(examples, ExplainInputs(TOKENIZER, chat), explainer="llm")
    assert chat.total.calls == len(RULES)
    assert chat.total.prompt_tokens > 100
