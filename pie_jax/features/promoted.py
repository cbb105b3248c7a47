"""Tokens that a feature promotes through its decoder: a logit lens on its write.

The direct effect only: the write goes through the final norm's weight, centred where that norm
centres (its scale, which depends on the prompt, is left out), and the unembedding. What later
layers make of it is not seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pie_jax.devices.programs import program
from pie_jax.models.loader import LanguageModel
from pie_jax.models.transformer import Transformer
from pie_jax.transcoders.store import Transcoder

# Rows whose effects [n, V] are in memory at once.
_CHUNK = 64


class TokenEffect(NamedTuple):
    """A token and the logit that one unit of activation adds to it, up to the norm's scale."""

    token: int
    text: str
    effect: float


class PromotedTokens(NamedTuple):
    """A feature's strongest tokens, best first; `target` is the layer written to, None for all."""

    layer: int
    feature: int
    target: int | None
    promoted: tuple[TokenEffect, ...]
    suppressed: tuple[TokenEffect, ...]


def promoted_tokens(
    model: LanguageModel,
    transcoder: Transcoder,
    features: Sequence[tuple[int, int]],
    top: int = 10,
    *,
    per_target: bool = False,
) -> list[PromotedTokens]:
    """Return the `top` promoted and suppressed tokens of (layer, feature) pairs, in their order.

    The feature's writes are summed over its target layers, or with `per_target` each target
    layer gets an entry of its own.
    """
    top = min(top, model.config.vocab_size)
    keys: list[tuple[int, int, int | None]] = []
    directions: list[np.ndarray] = []
    for layer, feature, rows in _rows(transcoder, features):
        targets = [layer + w for w in range(len(rows))] if per_target else [None]
        keys += [(layer, feature, target) for target in targets]
        directions.append(rows if per_target else rows.sum(axis=0, keepdims=True))
    texts: dict[int, str] = {}

    def read(tokens: np.ndarray, effects: np.ndarray) -> tuple[TokenEffect, ...]:
        for token in tokens:
            if int(token) not in texts:
                texts[int(token)] = model.tokenizer.token(int(token))
        return tuple(
            TokenEffect(int(token), texts[int(token)], float(effect))
            for token, effect in zip(tokens, effects, strict=True)
        )

    ends = _chunked(model.transformer, directions, top)
    return [
        PromotedTokens(*key, read(best, gain), read(worst, loss))
        for key, (best, gain, worst, loss) in zip(keys, ends, strict=True)
    ]


@program("top")
def direct_effects(
    model: Transformer, directions: Float[Array, "n D"], top: int
) -> tuple[Int[Array, "n K"], Float[Array, "n K"], Int[Array, "n K"], Float[Array, "n K"]]:
    """Return the K = `top` most promoted tokens and effects, then the most suppressed ones."""
    norm = model.final_norm
    scaled = norm.weighted(norm.centred(directions))
    parameter = model.embedding if model.unembedding is None else model.unembedding
    table = parameter[...]
    effects = jnp.einsum(
        "nd,vd->nv",
        scaled.astype(table.dtype),
        table,
        preferred_element_type=jnp.float32,
        precision=jax.lax.Precision.HIGHEST if table.dtype == jnp.float32 else None,
    )
    gain, best = jax.lax.top_k(effects, top)
    loss, worst = jax.lax.top_k(-effects, top)
    return best, gain, worst, -loss


def _rows(
    transcoder: Transcoder, features: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield layer, feature and its rows [W, D] in float32, in the order asked for."""
    for layer, feature in features:
        rows = transcoder.rows(layer, np.array([feature]))[0]
        yield layer, feature, rows.astype(np.float32)


def _chunked(
    model: Transformer, directions: list[np.ndarray], top: int
) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield every direction's tokens and effects; chunks have one shape, so one compilation."""
    if not directions:
        return
    flat = np.concatenate(directions)
    for start in range(0, len(flat), _CHUNK):
        part = flat[start : start + _CHUNK]
        padded = np.pad(part, ((0, _CHUNK - len(part)), (0, 0)))
        ends = [np.asarray(x) for x in direct_effects(model, jnp.asarray(padded), top)]
        yield from zip(*(x[: len(part)] for x in ends), strict=True)
