"""Separation of two sets of texts by activation; undefined is a value with its reason.

Ties decide most figures here, as a feature is 0 on most texts: AUC takes mid-ranks, average
precision takes tied texts as one step. By hand, as importing scipy.stats takes half a second of
every command; tests hold it against scipy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from pie_jax.intervals import bootstrap_mean

GiniMode = Literal["clipped", "signed", "absolute"]

OK = "ok"
RESAMPLES = 500


class Interval(NamedTuple):
    """The 95% interval of a percentile bootstrap."""

    low: float
    high: float


@dataclass(frozen=True)
class Score:
    """A number between `interval` from `n` texts, or None and why.

    `status` is `ok` or the reason. `chance` is what a blind guess would get; `failed` counts the
    texts that have no judgement because calls failed; `detail` holds further figures by name.
    """

    value: float | None
    n: int
    interval: Interval | None = None
    status: str = OK
    chance: float | None = None
    failed: int = 0
    detail: tuple[tuple[str, float], ...] = ()


def undefined(status: str, n: int = 0, failed: int = 0) -> Score:
    """Return the score that does not exist, with its reason."""
    return Score(None, n, status=status, failed=failed)


def auc(negative: np.ndarray, positive: np.ndarray) -> float:
    """Return P(positive > negative) + P(equal) / 2 of activations [n0] and [n2], both not empty."""
    return float(_wins(negative, positive).mean())


def gini(negative: np.ndarray, positive: np.ndarray, mode: GiniMode = "signed") -> float:
    """Return 2 AUC - 1: 1 if every positive is above every negative, 0 if they mix.

    `clipped` is at least 0; `absolute` is FADE's own, which gives a description whose texts never
    fire the feature a high score, and is here for compatibility.
    """
    return float(_as_mode(np.array(2 * auc(negative, positive) - 1), mode))


def gini_score(
    negative: np.ndarray, positive: np.ndarray, mode: GiniMode = "clipped", *, seed: int = 0
) -> Score:
    """Return the Gini score with its interval; the texts of both sides are resampled.

    Undefined: `no-negative-texts`, `no-positive-texts`, `activation-not-finite`.
    """
    n = len(negative) + len(positive)
    reason = _sides_reason(negative, positive)
    if reason:
        return undefined(reason, n)
    wins = _wins(negative, positive)
    random = np.random.default_rng(seed)
    up, down = _weights(random, len(positive)), _weights(random, len(negative))
    draws = ((up @ wins) * down).sum(axis=1) / wins.size
    signed = float(2 * wins.mean() - 1)
    return Score(
        float(_as_mode(np.array(signed), mode)),
        n,
        _interval(_as_mode(2 * draws - 1, mode)),
        chance=0.0,
        detail=(("signed", signed),),
    )


def average_precision(negative: np.ndarray, positive: np.ndarray) -> float:
    """Return the sum over distinct activations of rise of recall x precision, ties as one step."""
    ones = [np.ones((1, len(side))) for side in (negative, positive)]
    return float(_average_precisions(negative, positive, *ones)[0])


def average_precision_score(negative: np.ndarray, positive: np.ndarray, *, seed: int = 0) -> Score:
    """Return the average precision with its interval and its chance level n2 / (n0 + n2).

    Undefined as in `gini_score`.
    """
    n = len(negative) + len(positive)
    reason = _sides_reason(negative, positive)
    if reason:
        return undefined(reason, n)
    random = np.random.default_rng(seed)
    up, down = _weights(random, len(positive)), _weights(random, len(negative))
    return Score(
        average_precision(negative, positive),
        n,
        _interval(_average_precisions(negative, positive, down, up)),
        chance=len(positive) / n,
    )


def balanced_accuracy(truth: np.ndarray, guess: np.ndarray) -> float:
    """Return the mean of the shares of true and of false items [n] that were guessed right."""
    return float((guess[truth].mean() + (~guess[~truth]).mean()) / 2)


def f1(truth: np.ndarray, guess: np.ndarray) -> float | None:
    """Return 2 TP / (2 TP + FP + FN); None where nothing is true and nothing was guessed."""
    hits, misses = int((truth & guess).sum()), int((truth != guess).sum())
    return 2 * hits / (2 * hits + misses) if hits or misses else None


def accuracy_score(truth: np.ndarray, guess: np.ndarray, *, seed: int = 0) -> Score:
    """Return the balanced accuracy of guesses with its interval, and F1 as a detail.

    Undefined: `no-positive-texts`, `no-negative-texts`.
    """
    truth, guess = np.asarray(truth, bool), np.asarray(guess, bool)
    n, positives = len(truth), int(truth.sum())
    if not positives or positives == n:
        return undefined("no-negative-texts" if positives else "no-positive-texts", n)
    random = np.random.default_rng(seed)
    # Resampling the texts of one side draws a binomial number of right guesses.
    sides = [(positives, guess[truth].mean()), (n - positives, (~guess[~truth]).mean())]
    draws = sum(random.binomial(size, share, RESAMPLES) / size for size, share in sides) / 2
    detail = f1(truth, guess)
    return Score(
        balanced_accuracy(truth, guess),
        n,
        _interval(np.asarray(draws)),
        chance=0.5,
        detail=(("f1", detail),) if detail is not None else (),
    )


def mean_score(values: np.ndarray, *, seed: int = 0) -> Score:
    """Return the mean of defined values over features with its interval; NaN stands for none.

    Undefined: `nothing-defined`.
    """
    mean = bootstrap_mean(values, seed=seed)
    if mean is None:
        return undefined("nothing-defined")
    return Score(mean.mean, mean.n, Interval(mean.low, mean.high))


def _sides_reason(negative: np.ndarray, positive: np.ndarray) -> str | None:
    if not len(positive):
        return "no-positive-texts"
    if not len(negative):
        return "no-negative-texts"
    if not (np.isfinite(negative).all() and np.isfinite(positive).all()):
        return "activation-not-finite"
    return None


def _wins(negative: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Return 1, 1/2 or 0 for every positive [n2] above, equal to or below every negative [n0]."""
    up, down = np.asarray(positive)[:, None], np.asarray(negative)[None, :]
    return (up > down) + 0.5 * (up == down)


def _as_mode(signed: np.ndarray, mode: GiniMode) -> np.ndarray:
    modes: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "signed": lambda x: x,
        "clipped": lambda x: np.maximum(x, 0.0),
        "absolute": np.abs,
    }
    return modes[mode](signed)


def _weights(random: np.random.Generator, size: int) -> np.ndarray:
    """Return how often a bootstrap draws each of `size` texts, [resamples, size]."""
    drawn = random.integers(0, size, (RESAMPLES, size)) + np.arange(RESAMPLES)[:, None] * size
    counts = np.bincount(drawn.ravel(), minlength=RESAMPLES * size)
    return counts.reshape(RESAMPLES, size).astype(np.float64)


def _average_precisions(
    negative: np.ndarray, positive: np.ndarray, down: np.ndarray, up: np.ndarray
) -> np.ndarray:
    """Return the average precision [r] under weights [r, n0] and [r, n2] of the texts."""
    scores = np.concatenate([negative, positive])
    order = np.argsort(-scores, kind="stable")
    steps = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])
    hits = np.concatenate([np.zeros_like(down), up], axis=1)[:, order]
    every = np.concatenate([down, up], axis=1)[:, order]
    hits = np.add.reduceat(hits, steps, axis=1)
    drawn = np.cumsum(np.add.reduceat(every, steps, axis=1), axis=1)
    precision = np.cumsum(hits, axis=1) / np.maximum(drawn, 1)
    return (hits * precision).sum(axis=1) / up.sum(axis=1)


def _interval(draws: np.ndarray) -> Interval:
    low, high = np.percentile(draws, [2.5, 97.5])
    return Interval(float(low), float(high))
