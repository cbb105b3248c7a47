"""One feature with one explanation under evaluation, and what all of them share."""

from __future__ import annotations

import asyncio
import threading
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, TypeVar

import numpy as np

from pie_jax.evaluate.presets import PRESETS, Preset
from pie_jax.evaluate.statistics import GiniMode, Score
from pie_jax.features.corpus.sample import Activations, NaturalTexts
from pie_jax.features.records import Explanation, FeatureExamples, FeatureKey
from pie_jax.features.samples import banded
from pie_jax.features.texts import ShowsTokens, TokenText, window_text
from pie_jax.judges.base import Judge
from pie_jax.judges.batched import Answers, rate_texts

T = TypeVar("T")


class Continuations(Protocol):
    """What is needed of `pie_jax.evaluate.steering.Steerer`."""

    def continuations(
        self, key: FeatureKey, activation: float, prompts: Sequence[str], new_tokens: int, most: int
    ) -> list[TokenText]:
        """Return what a steered model writes after each prompt."""
        ...


@dataclass(frozen=True)
class Shared:
    """What the scorers of all features share; `gini` is how clarity and responsiveness are made
    of a signed Gini (`absolute` is FADE's own)."""

    judge: Judge
    tokenizer: ShowsTokens
    activations: Activations
    natural: NaturalTexts
    preset: Preset = PRESETS["default"]
    steerer: Continuations | None = None
    gini: GiniMode = "clipped"
    seed: int = 0
    # The model computes for one feature at a time, off the event loop.
    _device: threading.Lock = field(default_factory=threading.Lock)

    async def compute(self, function: Callable[..., T], *arguments: Any) -> T:
        """Return what a function that uses the model returns, while other features wait for
        replies."""

        def alone() -> T:
            with self._device:
                return function(*arguments)

        return await asyncio.to_thread(alone)


@dataclass(frozen=True)
class Rated:
    """Ratings of texts: `activations` [n] of those with an answer and their `ratings` [n]."""

    activations: np.ndarray
    ratings: np.ndarray
    answers: Answers[int]

    def rated(self, rating: int) -> np.ndarray:
        """Return the activations of the texts with a rating."""
        return self.activations[self.ratings == rating]


class Subject:
    """A feature's examples and the explanation that is tried on it.

    Random draws are the feature's own: they follow from the seed, the feature and what is drawn,
    not from the order of evaluation nor from the explanation.
    """

    def __init__(self, explanation: Explanation, examples: FeatureExamples, shared: Shared):
        assert explanation.text is not None
        self.key, self.text = examples.key, explanation.text
        self.examples, self.shared, self.preset = examples, shared, shared.preset
        self.scores: dict[str, Score] = {}
        self._rated: Rated | None = None

    def seed(self, what: str) -> int:
        """Return the seed of one kind of draw for this feature."""
        return zlib.crc32(f"{self.shared.seed} {self.key.layer} {self.key.feature} {what}".encode())

    def random(self, what: str) -> np.random.Generator:
        """Return the generator of one kind of draw for this feature."""
        return np.random.default_rng(self.seed(what))

    @cached_property
    def active(self) -> list[TokenText]:
        """The activating windows kept for scoring, highest first."""
        return self._read(self.examples.scoring())

    @cached_property
    def silent(self) -> list[TokenText]:
        """The non-activating windows kept for scoring."""
        return self._read(self.examples.inactive_for(self.examples.for_scoring))

    @cached_property
    def natural(self) -> tuple[list[TokenText], np.ndarray]:
        """Random corpus texts and activations [n], without those that the explainer saw."""
        examples = self.examples
        shown = self._read(
            [*examples.explaining(), *examples.inactive_for(examples.for_explaining)]
        )
        hidden = {text.text for text in shown}
        pool = self.shared.natural
        kept = [i for i, text in enumerate(pool.texts) if text.text not in hidden]
        values = pool.of(self.key)[kept] if kept else np.zeros(0)
        return [pool.texts[i] for i in kept], values

    async def activations(self, texts: Sequence[str]) -> np.ndarray:
        """Return the feature's activations [n_texts] on new texts."""
        if not texts:
            return np.zeros(0)
        values = await self.shared.compute(self.shared.activations, texts, [self.key])
        return np.asarray(values)[:, 0]

    async def ratings(self) -> Rated:
        """Return the judge's ratings; responsiveness and purity share them."""
        if self._rated is None:
            self._rated = await self._rate()
        return self._rated

    async def _rate(self) -> Rated:
        texts, values, common = self._rateable()
        random, preset = self.random("rated"), self.preset
        answers: Answers[int] = Answers()
        left = np.arange(len(texts))
        # One more round of texts that were not rated yet, where few are rated 2.
        for _ in range(2):
            chosen = left[banded(values[left], common[left], preset.rated, random)].tolist()
            random.shuffle(chosen)
            if chosen:
                batch = {i: texts[i] for i in chosen}
                more = await rate_texts(self.shared.judge, self.text, batch, preset.batch)
                answers.found.update(more.found)
                answers.failed += more.failed
                answers.reasons.update(more.reasons)
            left = np.setdiff1d(left, chosen)
            if sum(rating == 2 for rating in answers.found.values()) >= preset.sparse:
                break
            if not answers.found:
                break
        ids = list(answers.found)
        return Rated(values[ids], np.array([answers.found[i] for i in ids], int), answers)

    def _rateable(self) -> tuple[list[TokenText], np.ndarray, np.ndarray]:
        """Return different texts that the explainer did not see, their activations, and which of
        them are random draws from the corpus."""
        texts, values = self.natural
        own = [*self.active, *([] if texts else self.silent)]
        known = {text.text for text in texts}
        extra = list({text.text: text for text in own if text.text not in known}.values())
        activations = np.concatenate([values, [text.maximum for text in extra]])
        # Without corpus texts the windows of the feature's examples have to do.
        common = np.arange(len(activations)) < (len(texts) or len(activations))
        return [*texts, *extra], activations, common

    def _read(self, windows: Sequence) -> list[TokenText]:
        return [window_text(self.shared.tokenizer, window) for window in windows]
