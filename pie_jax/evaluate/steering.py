"""Continuations of prompts while one feature is held at a multiple of its maximum."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

import jax.numpy as jnp
import numpy as np

from pie_jax.buckets import bucket
from pie_jax.interpret.records import FeatureKey
from pie_jax.interpret.texts import TokenText, text_ids, token_strings
from pie_jax.models.generate import Steering, generate
from pie_jax.models.loader import LanguageModel
from pie_jax.transcoders.modules import OfTop
from pie_jax.transcoders.stored import Transcoder

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


def steering_of(transcoder: Transcoder, key: FeatureKey, activation: float) -> Steering:
    """Return the intervention that holds a feature at an activation."""
    config, (layer, feature) = transcoder.config, key
    weight, bias, threshold = transcoder.encoder_arrays[layer]
    rows = np.zeros((config.num_layers, config.d_model), np.float32)
    written = transcoder.rows(layer, np.array([feature]))[0]
    rows[layer : layer + len(written)] = written

    def number(value: float) -> jnp.ndarray:
        return jnp.float32(value)

    return Steering(
        jnp.int32(layer),
        jnp.asarray(weight[feature], jnp.float32),
        number(bias[feature]),
        number(0.0 if threshold is None else threshold[feature]),
        jnp.asarray(rows),
        number(activation),
        None if config.top is None else OfTop(transcoder.encoder(layer), jnp.int32(feature)),
    )
