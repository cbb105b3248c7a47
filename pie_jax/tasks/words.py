"""Shared parts of the task generators: word lists, held-out splits, drawing of distinct pairs."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Sequence
from itertools import permutations
from typing import Literal, TypeVar, get_args

import numpy as np

from pie_jax.errors import InputError
from pie_jax.tasks.encode import MAX_TOKENS, EncodedPair, EncodesPrompts, encode_pair
from pie_jax.tasks.records import Pair

# "unseen": held-out combinations in templates that no other split uses.
Split = Literal["all", "train", "heldout", "unseen"]

T = TypeVar("T")


def word_list(text: str) -> tuple[str, ...]:
    """Split a block of words at white space."""
    return tuple(text.split())


def one_token_words(
    words: Sequence[str], tokenizer: EncodesPrompts | None, *, needed: int, kind: str
) -> tuple[str, ...]:
    """Keep the words that are one token after a space; without a tokenizer, all of them.

    Raises:
        InputError: fewer than `needed` distinct words remain; `kind` names the list.
    """
    kept = tuple(dict.fromkeys(words))
    if tokenizer is not None:
        kept = tuple(word for word in kept if tokenizer.answer_id(f" {word}") is not None)
    if len(kept) < needed:
        which = "" if tokenizer is None else " that are one token in this tokenizer"
        raise InputError(
            f"there are {len(kept)} {kind}{which} and {needed} are needed; "
            "give more words, fewer corruptions or another tokenizer"
        )
    return kept


def in_heldout_tenth(key: str) -> bool:
    """Say whether a key falls in the held-out tenth, the same on every machine and run."""
    return zlib.crc32(key.encode("utf-8")) % 10 == 0


def split_combinations(
    words: Sequence[str], split: Split, is_heldout: Callable[[str, str], bool]
) -> list[tuple[str, str]]:
    """Return the ordered pairs of different words that belong to a split.

    Raises:
        InputError: the split is unknown or no combination belongs to it.
    """
    check_split(split)
    combinations = in_split(permutations(words, 2), split, is_heldout)
    if not combinations:
        raise InputError(
            f'no combination of the {len(words)} words is in split "{split}"; give more words'
        )
    return combinations


def in_split(
    combinations: Iterable[tuple[str, str]], split: Split, is_heldout: Callable[[str, str], bool]
) -> list[tuple[str, str]]:
    """Return the combinations that belong to a split."""
    return [
        pair for pair in combinations if split == "all" or is_heldout(*pair) == (split != "train")
    ]


def check_split(split: Split) -> None:
    """Raise InputError for a split that there is not."""
    if split not in get_args(Split):
        known = ", ".join(f'"{name}"' for name in get_args(Split))
        raise InputError(f"split is {split!r}; it must be one of {known}")


def check_persons(persons: int) -> None:
    """Raise InputError for a number of persons that no template has."""
    if persons not in (1, 2):
        raise InputError(f"persons is {persons}; it must be 1 or 2")


def require(items: Sequence[T], kind: str) -> Sequence[T]:
    """Return items; raise InputError where there are none. `kind` names them."""
    if not items:
        raise InputError(
            f"no {kind} are left that are one token each and in the split; give split "
            '"all", or another tokenizer'
        )
    return items


def pick(rng: np.random.Generator, items: Sequence[T], count: int) -> list[T]:
    """Draw `count` different places of a sequence, in random order."""
    return [items[int(i)] for i in rng.permutation(len(items))[:count]]


def pick_one(rng: np.random.Generator, items: Sequence[T]) -> T:
    """Draw one item of a sequence."""
    return items[int(rng.integers(len(items)))]


def distinct_draws(
    rng: np.random.Generator, items: Sequence[T], size: int, count: int
) -> list[tuple[T, ...]]:
    """Draw `count` different arrangements of `size` items; `pool_for` says how many it takes."""
    draws: dict[tuple[T, ...], None] = {}
    while len(draws) < count:
        draws[tuple(pick(rng, items, size))] = None
    return list(draws)


def pool_for(size: int, count: int) -> int:
    """Return the least number of items with at least `count` arrangements of `size`."""
    pool = size
    while math.perm(pool, size) < count:
        pool += 1
    return pool


def check_corruption(corruption: str, known: Sequence[str], n_corruptions: int) -> None:
    """Raise InputError for an unknown corruption or a count below 1."""
    if corruption not in known:
        raise InputError(f"corruption is {corruption!r}; it must be one of {', '.join(known)}")
    if n_corruptions < 1:
        raise InputError(f"n_corruptions is {n_corruptions}; it must be at least 1")


def seeded(seed: int) -> np.random.Generator:
    """Return the generator of a seed; raise InputError for a negative one."""
    if seed < 0:
        raise InputError(f"seed is {seed}; it must be 0 or larger")
    return np.random.default_rng(seed)


def draw_distinct(n: int, draw: Callable[[], Pair], tokenizer: EncodesPrompts | None) -> list[Pair]:
    """Draw until there are n pairs of different clean prompts, usable with the tokenizer.

    Raises:
        InputError: n is below 1, or so many pairs do not turn up.
    """
    if n < 1:
        raise InputError(f"n is {n}; it must be at least 1")
    pairs: dict[str, Pair] = {}
    # Seeing each of n equally likely prompts takes about n·ln(n) draws, far fewer than this.
    attempts = 1000 + 50 * n
    for _ in range(attempts):
        pair = draw()
        if pair.clean not in pairs and (tokenizer is None or _is_usable(pair, tokenizer)):
            pairs[pair.clean] = pair
        if len(pairs) == n:
            return list(pairs.values())
    raise InputError(
        f"only {len(pairs)} of the {n} pairs asked for were found in {attempts} draws; ask for "
        "fewer, or give more words, more templates or another tokenizer"
    )


def _is_usable(pair: Pair, tokenizer: EncodesPrompts) -> bool:
    # One token more than is kept shows the prompts that would lose their last position.
    encoded = encode_pair(pair, tokenizer, index=0, needs_target=True, max_tokens=MAX_TOKENS + 1)
    return isinstance(encoded, EncodedPair) and len(encoded.clean) <= MAX_TOKENS
