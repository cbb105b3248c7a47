"""What a graph ends in: likely tokens, chosen tokens, a difference of two, or any directions.

Shapes: K targets, V vocabulary, D model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from pie_jax.devices.shapes import bucket
from pie_jax.errors import InputError
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


def find_targets(
    model: LanguageModel,
    probability: Float[np.ndarray, " V"],
    targets: Targets,
    max_logits: int,
    share: float,
) -> tuple[tuple[Target, ...], Float[np.ndarray, "K D"]]:
    """Return the targets of a graph, and what each reads at the output of the final norm.

    Raises `InputError` for an answer that is not one token, a direction of another size, or no
    target at all.
    """
    if targets is None:
        return _tokens(model, likely(probability, max_logits, share), probability)
    if len(targets) == 0:
        raise InputError("targets: the list is empty; give a token or a direction, or leave it out")
    if any(isinstance(one, tuple) for one in targets):
        return _directions(model, [_direction(one) for one in targets])
    ids = [_token_id(model, one) for one in targets]  # type: ignore[arg-type]
    if not isinstance(targets, tuple):
        return _tokens(model, ids, probability)
    if len(ids) != 2 or ids[0] == ids[1]:
        raise InputError(
            f"targets {targets}: a pair holds a target and another token, the distractor; give a "
            "list for single tokens"
        )
    named, vectors = _tokens(model, ids, probability)
    label = f"{named[0].label.strip()} − {named[1].label.strip()}"
    return (Target(label, None, 1.0, (ids[0], ids[1])),), (vectors[0] - vectors[1])[None]


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
    model: LanguageModel, ids: Sequence[int], probability: np.ndarray
) -> tuple[tuple[Target, ...], np.ndarray]:
    padded = np.zeros(bucket(len(ids)), np.int32)
    padded[: len(ids)] = ids
    vectors = np.asarray(logit_vectors(model.transformer, padded))[: len(ids)]
    found = (Target(model.tokenizer.token(i), i, float(probability[i])) for i in ids)
    return tuple(found), vectors


def _directions(
    model: LanguageModel, directions: Sequence[Direction]
) -> tuple[tuple[Target, ...], np.ndarray]:
    width = model.config.d_model
    vectors = []
    for one in directions:
        vector = np.asarray(one.vector, np.float32)
        if vector.shape != (width,) or not np.isfinite(vector).all():
            raise InputError(
                f"targets: direction {one.label!r} has the shape {vector.shape}; it has to be "
                f"({width},) of finite numbers"
            )
        vectors.append(vector)
    found = (Target(one.label, None, float(one.weight)) for one in directions)
    return tuple(found), np.stack(vectors)


def _direction(given: object) -> Direction:
    if not isinstance(given, tuple) or len(given) != 3 or not isinstance(given[0], str):
        raise InputError(
            f"targets: {given!r} is not a direction; give its label, weight and vector"
        )
    return Direction(*given)


def _token_id(model: LanguageModel, answer: str | int) -> int:
    if isinstance(answer, str):
        index = model.tokenizer.answer_id(answer)
        if index is None:
            pieces = model.tokenizer.answer_pieces(answer)
            raise InputError(
                f"target {answer!r} is {len(pieces)} tokens, {pieces}; it has to be one"
            )
        return index
    if not 0 <= int(answer) < model.config.vocab_size:
        raise InputError(
            f"target {answer}: the model has tokens 0 to {model.config.vocab_size - 1}"
        )
    return int(answer)
