"""Prompts of interventions and generation as tokens, in batches of few shapes.

Shapes: B prompts, S lists of changes, C features of a list, P positions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pie_jax.devices.shapes import bucket, length_class
from pie_jax.errors import InputError, whole_number
from pie_jax.features.records import FeatureKey
from pie_jax.intervene.changes import Change, Placed, features_of, placed
from pie_jax.models.loader import LanguageModel

_LEAST_FEATURES = 4


@dataclass(frozen=True)
class Prompt:
    """A prompt's ids, BOS in front, and what messages call it."""

    ids: tuple[int, ...]
    name: str


def encode_prompts(
    model: LanguageModel, prompts: Sequence[str | Sequence[int]], new_tokens: int
) -> list[Prompt]:
    """Return prompts, texts or ids with BOS, as tokens.

    Raises `InputError` for one without tokens of its own or with ids that the model does not have,
    and where its context is too short for it and what comes after.
    """
    if not prompts:
        raise InputError("no prompt is given; give at least one.")
    most = model.config.max_positions
    encoded = []
    for row, text in enumerate(prompts):
        name = "the prompt" if len(prompts) == 1 else f"prompt {row} (counted from 0)"
        ids = tuple(model.tokenizer.encode(text)) if isinstance(text, str) else _ids(model, text)
        if len(ids) < 2:
            raise InputError(
                f"{name}, {text!r}, is {len(ids)} token, where no feature is defined; give at "
                "least one token after BOS."
            )
        if len(ids) + new_tokens > most:
            after = f" and {new_tokens} new ones" if new_tokens else ""
            raise InputError(
                f"{name} has {len(ids)} tokens{after}, more than the {most} of the model's "
                "context; shorten it."
            )
        encoded.append(Prompt(ids, name))
    return encoded


def _ids(model: LanguageModel, prompt: Sequence[int]) -> tuple[int, ...]:
    size = model.config.vocab_size
    if not isinstance(prompt, Sequence) or not all(0 <= index < size for index in prompt):
        raise InputError(
            f"prompts: {str(prompt)[:60]} is neither a text nor a list of ids from 0 to "
            f"{size - 1}; give a list of either."
        )
    return tuple(whole_number(index, "prompts") for index in prompt)


def keys_of(lists: Sequence[Sequence[Change]]) -> list[FeatureKey]:
    """Return the features of all lists, each once."""
    return list(dict.fromkeys(key for changes in lists for key in features_of(changes)))


def features_class(number: int) -> int:
    """Return the size of arrays that hold so many features."""
    return bucket(number, _LEAST_FEATURES)


@dataclass(frozen=True)
class Batch:
    """Some prompts with some lists of changes, padded.

    `rows` and `lists` are the places in the input; `tokens` [B, T], `length` [B], `index` [S, C]
    places of features among all, `placed` of arrays [B, S, C, P].
    """

    rows: list[int]
    lists: list[int]
    tokens: np.ndarray
    length: np.ndarray
    index: np.ndarray
    placed: Placed


def batches(
    prompts: Sequence[Prompt],
    lists: Sequence[Sequence[Change]],
    new_tokens: int,
    side_by_side: int,
) -> Iterator[Batch]:
    """Yield all prompts with all lists, about `side_by_side` runs at a time.

    Prompts of a batch are padded to one length; what each list changes goes on through the tokens
    that are generated. Raises `InputError` for positions that a prompt does not have.
    """
    groups: dict[int, list[int]] = defaultdict(list)
    for row, prompt in enumerate(prompts):
        groups[length_class(len(prompt.ids))].append(row)
    of_lists = min(len(lists), max(side_by_side, 1))
    of_prompts = max(1, side_by_side // of_lists)
    place = {key: index for index, key in enumerate(keys_of(lists))}
    wide = features_class(max((len(features_of(changes)) for changes in lists), default=0))
    for length, members in sorted(groups.items()):
        for rows in _parts(members, of_prompts):
            for some in _parts(list(range(len(lists))), of_lists):
                yield _batch(prompts, lists, rows, some, length, new_tokens, wide, place)


def _parts(items: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _batch(
    prompts: Sequence[Prompt],
    lists: Sequence[Sequence[Change]],
    rows: list[int],
    some: list[int],
    length: int,
    new_tokens: int,
    wide: int,
    place: dict[FeatureKey, int],
) -> Batch:
    shape = (bucket(len(rows), 1), bucket(len(some), 1))
    tokens, lengths = np.zeros((shape[0], length), np.int32), np.ones(shape[0], np.int32)
    index, sizes = np.zeros((shape[1], wide), np.int32), (wide, length + new_tokens)
    on = np.zeros((*shape, *sizes), bool)
    value, scale = np.zeros(on.shape, np.float32), np.zeros(on.shape, np.float32)
    for s, number in enumerate(some):
        found = [place[key] for key in features_of(lists[number])]
        index[s, : len(found)] = found
    for b, row in enumerate(rows):
        ids = prompts[row].ids
        tokens[b, : len(ids)], lengths[b] = ids, len(ids)
        for s, number in enumerate(some):
            # The last new token is not read any more.
            total = len(ids) + max(new_tokens - 1, 0)
            one = placed(lists[number], len(ids), total, sizes, prompts[row].name)
            on[b, s], value[b, s], scale[b, s] = one
    return Batch(rows, some, tokens, lengths, index, Placed(on, value, scale))
