"""Steering faithfulness: does the model write what the description says when it is steered?

FADE's faithfulness; not the faithfulness of a circuit.
"""

from __future__ import annotations

import numpy as np

from pie_jax.evaluate.scorers.base import Scorer
from pie_jax.evaluate.statistics import RESAMPLES, Interval, Score, undefined
from pie_jax.evaluate.subject import Subject
from pie_jax.features.samples import drawn
from pie_jax.features.texts import TokenText
from pie_jax.judges.batched import rate_texts

NEEDS = ("clarity", "responsiveness")


async def score(subject: Subject) -> Score:
    """Return max(max_f P2(f) - P2(0), 0) / (1 - P2(0)), P2 the share of continuations rated 2.

    Undefined: `needs-clarity-and-responsiveness` where one of them is, `no-model`, `never-fires`,
    `clarity-or-responsiveness-too-low`, `no-corpus-text`, `none-rated-at-0`, `saturated`
    (P2(0) = 1), all calls failed.
    """
    reason = _why_not(subject)
    if reason:
        return undefined(reason)
    preset = subject.preset
    texts, _ = subject.natural
    prompts = drawn(range(len(texts)), preset.prompts, subject.random("prompts"))
    every = [
        text
        for factor in preset.factors
        for text in await _continuations(subject, [texts[i].text for i in prompts], factor)
    ]
    answers = await rate_texts(
        subject.shared.judge, subject.text, dict(enumerate(every)), preset.batch
    )
    failed = len(answers.failed)
    if not answers.found:
        return undefined(answers.status, failed=failed)
    clear = np.full(len(every), np.nan)
    for i, rating in answers.found.items():
        clear[i] = rating == 2
    table = clear.reshape(len(preset.factors), len(prompts))
    return faithfulness(table, preset.factors, failed, subject.seed("faithfulness"))


def faithfulness(
    clear: np.ndarray, factors: tuple[float, ...], failed: int = 0, seed: int = 0
) -> Score:
    """Return the score of [factors, prompts] flags for `rated 2`, NaN where there is no rating."""
    shares = _shares(clear)
    n = int((~np.isnan(clear)).sum())
    base = shares[factors.index(0.0)]
    if np.isnan(base):
        return undefined("none-rated-at-0", n, failed)
    if base == 1:
        return undefined("saturated", n, failed)
    random = np.random.default_rng(seed)
    draws = random.integers(0, clear.shape[1], (RESAMPLES, clear.shape[1]))
    values = np.array([_gain(_shares(clear[:, draw]), factors) for draw in draws])
    values = values[~np.isnan(values)]
    low, high = np.percentile(values, [2.5, 97.5]) if len(values) else (np.nan, np.nan)
    interval = Interval(float(low), float(high)) if len(values) else None
    detail = tuple(
        (f"rated 2 at {factor:g}", float(share))
        for factor, share in zip(factors, shares, strict=True)
        if not np.isnan(share)
    )
    value = float(_gain(shares, factors))
    return Score(value, n, interval, chance=0.0, failed=failed, detail=detail)


def _shares(clear: np.ndarray) -> np.ndarray:
    rated = ~np.isnan(clear)
    count = rated.sum(axis=1)
    hits = np.where(rated, clear, 0).sum(axis=1)
    return np.where(count > 0, hits / np.maximum(count, 1), np.nan)


def _gain(shares: np.ndarray, factors: tuple[float, ...]) -> float:
    base = shares[factors.index(0.0)]
    if np.isnan(base) or base == 1:
        return float("nan")
    return max(float(np.nanmax(shares)) - base, 0.0) / (1 - base)


def _why_not(subject: Subject) -> str | None:
    known = [subject.scores.get(name) for name in NEEDS]
    values = [score.value for score in known if score is not None and score.value is not None]
    if len(values) < len(NEEDS):
        return "needs-clarity-and-responsiveness"
    if min(values) < subject.preset.steer_from:
        return "clarity-or-responsiveness-too-low"
    if subject.shared.steerer is None:
        return "no-model"
    if not subject.natural[0]:
        return "no-corpus-text"
    return None if subject.examples.maximum > 0 else "never-fires"


async def _continuations(subject: Subject, prompts: list[str], factor: float) -> list[TokenText]:
    shared, preset = subject.shared, subject.preset
    assert shared.steerer is not None
    return await shared.compute(
        shared.steerer.continuations,
        subject.key,
        factor * subject.examples.maximum,
        prompts,
        preset.new_tokens,
        preset.prompt_tokens,
    )


SCORER = Scorer(
    "steering-faithfulness",
    "how much more often steered continuations fit the description",
    score,
    after=NEEDS,
    corpus=True,
)
