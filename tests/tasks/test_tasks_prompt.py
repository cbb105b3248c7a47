"""One prompt: its target, a corrupted prompt that is suggested, and a run without any."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from test_tasks_encode import WordTokenizer

import pie_jax
from pie_jax.errors import InputError
from pie_jax.tasks import Pair, read_pairs, suggest_corruption, with_suggestions
from pie_jax.tasks.encode import MAX_TOKENS
from pie_jax.tasks.ioi import NAMES
from pie_jax.tasks.prompt import next_probabilities


def test_the_target_is_the_likeliest_next_token(reference) -> None:
    model = reference("llama").model
    prompt = read_pairs(reference("llama").folder / "prompts.jsonl")[0].clean
    ids = model.tokenizer.encode(prompt)
    logits = np.asarray(model.transformer(jnp.array(ids)).logits[-1], np.float64)
    probabilities = np.asarray(next_probabilities(model, ids))
    np.testing.assert_allclose(probabilities, np.exp(logits) / np.exp(logits).sum(), rtol=1e-4)
    pair = pie_jax.prompt_pair(model, prompt)
    assert model.tokenizer.answer_id(pair.target) == logits.argmax()
    assert pair == Pair(prompt, (), pair.target, None)
    given = pie_jax.prompt_pair(model, prompt, target=" a", distractor=" b", corrupted="c")
    assert given == Pair(prompt, ("c",), " a", " b")


def test_prompts_that_say_nothing_or_too_much_are_refused(reference) -> None:
    model = reference("llama").model
    with pytest.raises(InputError, match="empty"):
        pie_jax.prompt_pair(model, "")
    with pytest.raises(InputError, match=f"but {MAX_TOKENS} are read"):
        pie_jax.prompt_pair(model, " a" * 500)


def test_a_likeliest_token_that_no_text_is_asks_for_a_target(reference, monkeypatch) -> None:
    model = reference("llama").model
    monkeypatch.setattr(type(model.tokenizer), "answer_id", lambda self, text: None)
    with pytest.raises(InputError, match="give a target"):
        pie_jax.prompt_pair(model, "a b c")


def test_without_corrupted_prompts_a_run_is_as_with_them(reference) -> None:
    tiny = reference("llama")
    pairs = read_pairs(tiny.folder / "prompts.jsonl")[:2]
    bare = [replace(pair, corrupted=(), distractor=None) for pair in pairs]
    uneven = [pairs[0], replace(pairs[1], corrupted=("of another length",))]
    settings = {"methods": ("fap",), "budgets": (4,), "corruption": "zero-features"}
    settings |= {"metric": "logit-above-mean", "batch_size": 2}
    first, *others = (
        pie_jax.prune(tiny.model, tiny.transcoder, one, **settings) for one in (pairs, bare, uneven)
    )
    for other in others:
        for name in ("scores", "selections", "behaviour"):
            assert getattr(other, name).equals(getattr(first, name)), name
    with pytest.raises(InputError, match="there is no corrupted prompt"):
        pie_jax.prune(tiny.model, tiny.transcoder, bare, methods=("fap",), budgets=(4,))
    with pytest.raises(InputError, match="--min-tokens"):
        pie_jax.prune(tiny.model, tiny.transcoder, bare, **settings, min_tokens=100)


@pytest.mark.parametrize(
    ("prompt", "start", "end"),
    [
        ("Then, Peter and Joe had a talk. Afterwards Joe said to", "Then, Peter and Joe ", "to"),
        ("the war lasted from 1732 to", "the war lasted from 1733 to", "to"),
        ("The capital of France is", "The capital of ", " is"),
        ("When Xenia met Bob, \u201cHello\u201d said Xenia", "When Xenia met ", "said Xenia"),
    ],
)
def test_a_name_or_number_becomes_another(prompt: str, start: str, end: str) -> None:
    other = suggest_corruption(WordTokenizer(), prompt)
    assert other != prompt
    assert other.startswith(start)
    assert other.endswith(end)
    assert len(other.split()) == len(prompt.split())


def test_another_name_has_as_many_tokens() -> None:
    class Letters(WordTokenizer):
        def encode(self, text: str) -> list[int]:
            return [ord(letter) for letter in text]

    other = suggest_corruption(Letters(), "they say that Joe said to")
    assert len(other) == len("they say that Joe said to")
    assert other.split()[3] in NAMES


@pytest.mark.parametrize("prompt", ["nothing to see here", "Then they went home", "</b>\u202e 😀"])
def test_what_cannot_be_exchanged_is_said(prompt: str) -> None:
    with pytest.raises(InputError, match="give a corrupted prompt"):
        suggest_corruption(WordTokenizer(), prompt)
    pairs = [Pair("see Joe now", ("x",)), Pair(prompt)]
    with pytest.raises(InputError, match="row 1 "):
        with_suggestions(WordTokenizer(), pairs)


def test_only_missing_prompts_are_suggested() -> None:
    pairs = [Pair("see Joe now", ("mine",)), Pair("see Joe now")]
    found, rows = with_suggestions(WordTokenizer(), pairs)
    assert rows == [1]
    assert found[0] == pairs[0]
    assert len(found[1].corrupted) == 1
