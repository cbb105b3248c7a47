"""Clarity: does a text written for the description activate the feature more than others do?

FADE (arXiv 2502.16994): the Gini of corpus texts against synthetic ones.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from pie_jax.evaluate.scorers.base import Scorer
from pie_jax.evaluate.statistics import Score, gini_score, undefined
from pie_jax.evaluate.subject import Subject
from pie_jax.features.samples import drawn
from pie_jax.judges.base import JudgeFailed
from pie_jax.judges.batched import Answers

# Texts from which a judge without an LLM makes its own.
_NEUTRAL = 30


async def score(subject: Subject) -> Score:
    """Return the Gini score of synthetic against corpus texts.

    Undefined: `no-synthetic-text`, `no-corpus-text`, all calls failed.
    """
    texts, values = subject.natural
    if not texts:
        return undefined("no-corpus-text")
    written, answers = await _written(subject)
    failed = len(answers.failed) * subject.preset.texts_a_call
    if not written:
        return undefined(answers.status if answers.failed else "no-synthetic-text", failed=failed)
    chosen = drawn(range(len(texts)), subject.preset.corpus_texts, subject.random("corpus"))
    positive = await subject.activations(written)
    shared = subject.shared
    found = gini_score(values[chosen], positive, shared.gini, seed=subject.seed("clarity"))
    return replace(found, failed=failed)


async def _written(subject: Subject) -> tuple[list[str], Answers[list[str]]]:
    """Return the different texts of all writing calls; a call that fails is made once more."""
    preset, judge = subject.preset, subject.shared.judge
    calls = range(preset.writing_calls)
    neutral = [subject.silent[i] for i in _few(subject)] or subject.active
    answers: Answers[list[str]] = Answers()

    async def call(number: int) -> None:
        for draw in (number, number + preset.writing_calls):
            try:
                answers.found[number] = await judge.write(
                    subject.text, preset.texts_a_call, neutral, draw, subject.seed("write")
                )
                return
            except JudgeFailed as error:
                answers.reasons[error.status] += 1
                if not error.again:
                    break
        answers.failed = (*answers.failed, number)

    await asyncio.gather(*map(call, calls))
    lists = [answers.found[number] for number in sorted(answers.found)]
    return list(dict.fromkeys(t for texts in lists for t in texts if t.strip())), answers


def _few(subject: Subject) -> list[int]:
    return drawn(range(len(subject.silent)), _NEUTRAL, subject.random("neutral"))


SCORER = Scorer("clarity", "Gini of texts written for the description", score, corpus=True)
