"""Continuations of prompts while one feature is held at a multiple of its maximum."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

import jax.numpy as jnp
import numpy as np

from pie_jax.devices.shapes import bucket
from pie_jax.features.records import FeatureKey
from pie_jax.features.texts import TokenText, text_ids, token_strings
from pie_jax.intervene.features import Held, load_features
from pie_jax.models.generate import generate
from pie_jax.models.loader import LanguageModel
from pie_jax.transcoders.store import Transcoder

_LEAST = 8


class Steerer:
    """Generates with a model that is steered through a transcoder's features."""

    def __init__(self, model: LanguageModel, transcoder: Transcoder, batch_size: int = 64):
        self._model, self._transcoder, self._batch = model, transcoder, batch_size

    def continuations(
        self, key: FeatureKey, activation: float, prompts: Sequence[str], new_tokens: int, most: int
    ) -> list[TokenText]:
        """Return what follows each prompt (cut after `most` tokens) with the feature held there.

        The text ends at the first special token.
        """
        steering = steering_of(self._transcoder, key, activation)
        ids = [text_ids(self._model.tokenizer, text)[:most] for text in prompts]
        texts: list[TokenText] = []
        for start in range(0, len(ids), self._batch):
            part = ids[start : start + self._batch]
            longest = max(map(len, part))
            self._model.require_positions(longest + new_tokens, "A prompt with its continuation")
            wide = bucket(longest, _LEAST)
            tokens = np.zeros((bucket(len(part), _LEAST), wide), np.int32)
            for row, prompt in enumerate(part):
                tokens[row, : len(prompt)] = prompt
            length = np.maximum(np.array([*map(len, part), *[0] * (len(tokens) - len(part))]), 1)
            new = generate(
                self._model.transformer,
                jnp.asarray(tokens),
                jnp.asarray(length, jnp.int32),
                steering,
                new_tokens=new_tokens,
                site=self._transcoder.config.input_site,
            )
            texts += [self._read(row) for row in np.asarray(new)[: len(part)].tolist()]
        return texts

    def _read(self, ids: list[int]) -> TokenText:
        special = self._model.tokenizer.special_ids()
        kept = list(takewhile(lambda index: index not in special, ids))
        return TokenText(token_strings(self._model.tokenizer, kept))


def steering_of(transcoder: Transcoder, key: FeatureKey, activation: float) -> Held:
    """Return what holds a feature at an activation everywhere but at BOS."""
    value, scale = np.full((1, 2), activation, np.float32), np.zeros((1, 2), np.float32)
    places = (np.array([[False, True]]), value, scale)
    return Held(load_features(transcoder, [key], 1), *map(jnp.asarray, places))
