"""What a graph ends in: likely tokens, chosen tokens, a difference of two, or any directions.

Shapes: M prompts, K targets, V vocabulary, D model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from pie_jax.devices.shapes import bucket
from pie_jax.errors import InputError, whole_number
from pie_jax.graph.frozen import logit_vectors
from pie_jax.graph.types import Target
from pie_jax.models.loader import LanguageModel


class Direction(NamedTuple):
    """A direction `vector` [D] at the output of the final norm, and its weight in influence."""

    label: str
    weight: float
    vector: np.ndarray


# None for the likely tokens; a pair (target, distractor) for their difference; a list of tokens,
# as text or ids; or a list of directions.
Targets = tuple[str | int, str | int] | Sequence[str | int] | Sequence[Direction] | None


class Asked(NamedTuple):
    """What one prompt's graph ends in: tokens by their `ids`, a `pair` of them as a difference, or
    without any the likely ones; or `directions`."""

    ids: list[int] | None
    pair: bool
    directions: list[Direction]


def read_targets(model: LanguageModel, targets: Targets) -> Asked:
    """Return what `targets` ask for.

    Raises `InputError` for an answer that is not one token, a direction of another size, or no
    target at all.
    """
    if targets is None:
        return Asked(None, False, [])
    if len(targets) == 0:
        raise InputError("targets: the list is empty; give a token or a direction, or leave it out")
    if any(isinstance(one, tuple) for one in targets):
        return Asked(None, False, [_direction(model.config.d_model, one) for one in targets])
    ids = [_token_id(model, one) for one in targets]  # type: ignore[arg-type]
    pair = isinstance(targets, tuple)
    if pair and (len(ids) != 2 or ids[0] == ids[1]):
        raise InputError(
            f"targets {targets}: a pair holds a target and another token, the distractor; give a "
            "list for single tokens"
        )
    return Asked(ids, pair, [])


def find_targets(
    model: LanguageModel,
    probability: Float[np.ndarray, "M V"],
    asked: Sequence[Asked],
    max_logits: int,
    share: float,
) -> list[tuple[tuple[Target, ...], Float[np.ndarray, "K D"]]]:
    """Return each prompt's targets, and what each of them reads at the output of the final norm.

    Raises `InputError` for a number of logits or a share that asks for nothing.
    """
    ids = [
        likely(row, max_logits, share) if one.ids is None and not one.directions else one.ids or []
        for row, one in zip(probability, asked, strict=True)
    ]
    every = [index for row in ids for index in row]
    padded = np.zeros(bucket(len(every)), np.int32)
    padded[: len(every)] = every
    vectors = np.asarray(logit_vectors(model.transformer, padded)) if every else padded[:, None]
    ends = np.cumsum([len(row) for row in ids])
    return [
        _directions(one.directions)
        if one.directions
        else _tokens(model, row, one.pair, vectors[end - len(row) : end], shares)
        for one, row, end, shares in zip(asked, ids, ends, probability, strict=True)
    ]


def likely(probability: Float[np.ndarray, " V"], most: int, share: float) -> list[int]:
    """Return the likeliest tokens, at most `most`, until they hold `share` of the probability."""
    if most < 1 or not 0 < share <= 1:
        raise InputError(
            f"max_logits {most}, probability {share}: at least 1 logit, and a share above 0, at "
            "most 1"
        )
    order = np.argsort(-probability, kind="stable")[:most]
    end = int(np.searchsorted(np.cumsum(probability[order]), share)) + 1
    return order[:end].tolist()


def _tokens(
    model: LanguageModel,
    ids: Sequence[int],
    pair: bool,
    vectors: Float[np.ndarray, "K D"],
    probability: Float[np.ndarray, " V"],
) -> tuple[tuple[Target, ...], np.ndarray]:
    found = tuple(Target(model.tokenizer.token(i), i, float(probability[i])) for i in ids)
    if not pair:
        return found, vectors
    label = f"{found[0].label.strip()} − {found[1].label.strip()}"
    return (Target(label, None, 1.0, (ids[0], ids[1])),), (vectors[0] - vectors[1])[None]


def _directions(directions: Sequence[Direction]) -> tuple[tuple[Target, ...], np.ndarray]:
    found = (Target(one.label, None, float(one.weight)) for one in directions)
    return tuple(found), np.stack([one.vector for one in directions])


def _direction(width: int, given: object) -> Direction:
    if not isinstance(given, tuple) or len(given) != 3 or not isinstance(given[0], str):
        raise InputError(
            f"targets: {given!r} is not a direction; give its label, weight and vector"
        )
    one = Direction(*given)
    vector = np.asarray(one.vector, np.float32)
    if vector.shape != (width,) or not np.isfinite(vector).all():
        raise InputError(
            f"targets: direction {one.label!r} has the shape {vector.shape}; it has to be "
            f"({width},) of finite numbers"
        )
    return one._replace(vector=vector)


def _token_id(model: LanguageModel, answer: str | int) -> int:
    if isinstance(answer, str):
        index = model.tokenizer.answer_id(answer)
        if index is None:
            pieces = model.tokenizer.answer_pieces(answer)
            raise InputError(
                f"target {answer!r} is {len(pieces)} tokens, {pieces}; it has to be one"
            )
        return index
    index = whole_number(answer, "targets")
    if not 0 <= index < model.config.vocab_size:
        raise InputError(f"target {index}: the model has tokens 0 to {model.config.vocab_size - 1}")
    return index
