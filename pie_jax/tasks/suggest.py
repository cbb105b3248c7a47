"""A corrupted prompt from a clean one: a name or number becomes another of as many tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from pie_jax.errors import InputError
from pie_jax.tasks.encode import EncodesPrompts
from pie_jax.tasks.ioi import NAMES
from pie_jax.tasks.records import Pair
from pie_jax.tasks.words import word_list

_KINDS = (
    word_list(
        "France Germany Italy Spain Japan China India Russia Canada Mexico Brazil Egypt England "
        "Ireland Poland Sweden Norway Greece Turkey Texas California Florida Georgia Ohio"
    ),
    word_list(
        "Paris London Berlin Rome Madrid Tokyo Moscow Dallas Boston Chicago Houston Seattle "
        "Denver Miami Austin Oakland Vienna Athens Dublin Oslo"
    ),
    word_list("Monday Tuesday Wednesday Thursday Friday Saturday Sunday"),
    word_list("January February March April June July August September October November December"),
    NAMES,
)
_KNOWN = frozenset(word for kind in _KINDS for word in kind)
_WORD = re.compile(r"\b(?:[A-Z][a-z]+|\d+)\b")
_SENTENCE_START = re.compile(r"(?:^|[.!?:]\s+|\n\s*)[\"\u201c\u2018(]*$")


def suggest_corruption(tokenizer: EncodesPrompts, prompt: str) -> str:
    """Return a prompt in which the last name or number is another, of as many tokens.

    Names that are in a list (people, countries, cities, days, months) go before other words with a
    capital letter. Raises `InputError` where nothing can be exchanged.
    """
    length = len(tokenizer.encode(prompt))
    for found in _places(prompt):
        for other in _others(found[0]):
            text = prompt[: found.start()] + other + prompt[found.end() :]
            if not re.search(rf"\b{other}\b", prompt) and len(tokenizer.encode(text)) == length:
                return text
    raise InputError(
        f"no name or number of the prompt {_start(prompt)!r} can be exchanged for another of as "
        "many tokens; give a corrupted prompt yourself"
    )


def with_suggestions(
    tokenizer: EncodesPrompts, pairs: Sequence[Pair]
) -> tuple[list[Pair], list[int]]:
    """Return pairs with a suggested corrupted prompt where there was none, and the rows of those.

    Raises `InputError`, naming the row, where nothing can be suggested.
    """
    result, rows = list(pairs), []
    for index, pair in enumerate(pairs):
        if pair.corrupted:
            continue
        try:
            result[index] = replace(pair, corrupted=(suggest_corruption(tokenizer, pair.clean),))
        except InputError as error:
            raise InputError(f"row {index} (counted from 0): {error}") from error
        rows.append(index)
    return result, rows


def _places(prompt: str) -> list[re.Match[str]]:
    """Return what may be exchanged, the best place first, the prompt's last word last."""
    found = list(_WORD.finditer(prompt))[::-1]
    sure = [one for one in found if one[0] in _KNOWN or one[0].isdigit()]
    inner = [one for one in found if not _SENTENCE_START.search(prompt[: one.start()])]
    places = [*sure, *(one for one in inner if one not in sure)]
    return sorted(places, key=lambda one: one.end() == len(prompt))


def _others(word: str) -> Iterator[str]:
    """Yield what a word may be exchanged for."""
    if word.isdigit():
        yield from (str(int(word) + step).zfill(len(word)) for step in (1, 2, 3, 10, 20, 100))
        return
    yield from next((kind for kind in _KINDS if word in kind), NAMES)


def _start(prompt: str, most: int = 40) -> str:
    return prompt if len(prompt) <= most else f"{prompt[:most]}…"
