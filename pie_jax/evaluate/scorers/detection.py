"""Detection: can one tell from the explanation which windows activate the feature?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from pie_jax.evaluate.scorers.base import Scorer
from pie_jax.evaluate.statistics import Score, accuracy_score, undefined
from pie_jax.evaluate.subject import Subject
from pie_jax.features.samples import drawn, quantile_spread
from pie_jax.features.texts import TokenText
from pie_jax.judges.batched import match_texts


async def score(subject: Subject) -> Score:
    """Return the balanced accuracy over activating and silent windows; F1 is in the detail.

    Undefined: `too-few-activating-windows`, `too-few-silent-windows`, all calls failed.
    """
    reason = too_few(subject)
    if reason:
        return undefined(reason)
    active, silent = draw_windows(subject, "detection")
    return await judge_windows(subject, [*active, *silent], len(active), "detection")


def too_few(subject: Subject) -> str | None:
    """Return which windows are too few for a score, if so."""
    if len(subject.active) < subject.preset.least_windows:
        return "too-few-activating-windows"
    return "too-few-silent-windows" if len(subject.silent) < subject.preset.least_windows else None


def draw_windows(subject: Subject, what: str) -> tuple[list[TokenText], list[TokenText]]:
    """Draw activating windows from ten quantiles of their maxima, and as many silent ones."""
    random, count = subject.random(what), subject.preset.windows
    chosen = quantile_spread(len(subject.active), count, random)
    silent = drawn(range(len(subject.silent)), len(chosen), random)
    return [subject.active[i] for i in chosen], [subject.silent[i] for i in silent]


async def judge_windows(
    subject: Subject,
    windows: list[TokenText],
    true: int,
    what: str,
    marks: list[frozenset[int]] | None = None,
) -> Score:
    """Show windows, of which the first `true` are right, in random order, and score the answers."""
    order = subject.random(f"{what} order").permutation(len(windows)).tolist()
    texts = {shown: windows[i] for shown, i in enumerate(order)}
    marked = None if marks is None else {shown: marks[i] for shown, i in enumerate(order)}
    answers = await match_texts(
        subject.shared.judge, subject.text, texts, subject.preset.windows_a_call, marked
    )
    failed = len(answers.failed)
    if not answers.found:
        return undefined(answers.status, failed=failed)
    truth, guess = _sides(answers.found, order, true)
    found = accuracy_score(truth, guess, seed=subject.seed(what))
    return replace(found, failed=failed)


def _sides(found: Mapping[int, bool], order: list[int], true: int) -> tuple[np.ndarray, np.ndarray]:
    ids = sorted(found)
    truth = np.array([order[shown] < true for shown in ids])
    return truth, np.array([found[shown] for shown in ids])


SCORER = Scorer("detection", "balanced accuracy of finding the activating windows", score)
