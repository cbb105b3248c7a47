"""What a model computes on a corpus, as a check of transcoders needs it, in host memory.

Shapes: B windows, T positions, L layers, N tokens of all windows, D model.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pie_jax.devices.programs import program
from pie_jax.errors import InputError
from pie_jax.features.corpus.windows import window_batches
from pie_jax.files.corpus.documents import Corpus
from pie_jax.models.gradient_rules import FULL
from pie_jax.models.loader import LanguageModel
from pie_jax.models.transformer import Transformer

_BATCH = 8
# Fewer tokens say nothing about a transcoder.
_LEAST = 256


@dataclass(frozen=True)
class Texts:
    """Windows of a corpus, padded on the right: `tokens` [B, T], `length` [B], BOS counted."""

    tokens: np.ndarray
    length: np.ndarray

    @property
    def real(self) -> np.ndarray:
        """Return which positions hold a token, [B, T]."""
        return np.arange(self.tokens.shape[1]) < self.length[:, None]


@dataclass(frozen=True)
class Streams:
    """Of every token: `position` [N], and in each layer `resid_mid` and `mlp_out` [L, N, D].

    `mlp_own` [L, N, D] is the MLP's output before its post-norm, None for models without one.
    """

    position: np.ndarray
    resid_mid: np.ndarray
    mlp_out: np.ndarray
    mlp_own: np.ndarray | None

    def first(self, tokens: int) -> Streams:
        """Return the same of the first tokens alone."""
        own = None if self.mlp_own is None else self.mlp_own[:, :tokens]
        return Streams(
            self.position[:tokens], self.resid_mid[:, :tokens], self.mlp_out[:, :tokens], own
        )


def read_texts(model: LanguageModel, corpus: Corpus, tokens: int, window: int) -> Texts:
    """Return the first windows of a corpus with so many tokens together.

    Raises `InputError` where the corpus has too few.
    """
    batches, found = [], 0
    for batch in window_batches(corpus, model.tokenizer, window=window, size=_BATCH):
        batches.append(batch)
        found += int(np.maximum(batch.length - 1, 0).sum())
        if found >= tokens:
            break
    if found < _LEAST:
        raise InputError(f"the corpus has {found} tokens, but a check needs {_LEAST}; give more.")
    return Texts(
        np.concatenate([batch.tokens for batch in batches]),
        np.concatenate([batch.length for batch in batches]),
    )


def read_streams(model: LanguageModel, texts: Texts) -> Streams:
    """Run the model over windows, some at a time."""
    parts: list[tuple[np.ndarray, ...]] = []
    positions = np.broadcast_to(np.arange(texts.tokens.shape[1]), texts.tokens.shape)
    for first in range(0, len(texts.tokens), _BATCH):
        here = slice(first, first + _BATCH)
        found = _read(model.transformer, jnp.asarray(texts.tokens[here]))
        real = texts.real[here]
        parts.append(tuple(np.moveaxis(np.asarray(array), 1, 2)[real] for array in found))
    resid_mid, mlp_out, *own = (
        np.ascontiguousarray(np.moveaxis(np.concatenate(part), 0, 1))
        for part in zip(*parts, strict=True)
    )
    return Streams(positions[texts.real], resid_mid, mlp_out, own[0] if own else None)


@program()
def _read(model: Transformer, tokens: Int[Array, "B T"]) -> tuple[Float[Array, "B L T D"], ...]:
    def one(tokens: Array) -> tuple[Array, ...]:
        streams = model.streams(tokens)
        found = (streams.resid_mid, streams.mlp_out)
        if not model.config.post_norms:
            return found
        own = jax.vmap(lambda norm, mlp, x: mlp(norm(x, FULL), FULL))
        return (*found, own(model.blocks.mlp_norm, model.blocks.mlp, streams.resid_mid))

    return jax.vmap(one)(tokens)
