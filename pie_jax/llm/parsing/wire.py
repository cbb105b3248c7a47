"""Replies into values; docs/llm.md describes the formats.

Every parser takes a reply's text and returns what it says, with counts of what was wrong with
it, or raises `WireError`. Nothing is guessed, and a reply that cannot be read is no score.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from pie_jax.llm.parsing.json_text import WireError, find_json, without_thoughts
from pie_jax.llm.parsing.prompt_lines import text_lines
from pie_jax.llm.request import clean

__all__ = [
    "Flaws",
    "Matches",
    "Ratings",
    "Texts",
    "WireError",
    "parse_explanation",
    "parse_matches",
    "parse_ratings",
    "parse_text",
    "parse_texts",
    "text_lines",
]

RATINGS = (0, 1, 2)
# What instructions show in place of a text; a model that cannot follow them says it again.
EXAMPLES = ("one sentence", "first text", "second text")
_MARKER = re.compile(r"\*{0,2}\[EXPLANATION\]\*{0,2}[ \t]*:\*{0,2}", re.IGNORECASE)


@dataclass(frozen=True)
class Flaws:
    """How many entries of a reply were dropped, and why.

    invented: an id that was not asked for; duplicate: said again, kept once; conflicting: an id
    with two ratings, which then has none; malformed: neither id nor value of the right kind;
    out_of_range: a number that is no rating.
    """

    invented: int = 0
    duplicate: int = 0
    conflicting: int = 0
    malformed: int = 0
    out_of_range: int = 0

    @property
    def total(self) -> int:
        """How many there were in all."""
        return (
            self.invented + self.duplicate + self.conflicting + self.malformed + self.out_of_range
        )


@dataclass(frozen=True)
class Ratings:
    """Ratings 0, 1 or 2 by id; `missing` are the ids asked for that have none, in order."""

    ratings: dict[int, int]
    missing: tuple[int, ...]
    flaws: Flaws


@dataclass(frozen=True)
class Matches:
    """The ids said to match; every other one asked for is said not to."""

    ids: frozenset[int]
    flaws: Flaws


@dataclass(frozen=True)
class Texts:
    """Different texts, none empty, in order."""

    texts: tuple[str, ...]
    flaws: Flaws


def parse_text(reply: str) -> str:
    """Return a reply that is plain text."""
    if text := without_thoughts(reply):
        return text
    raise WireError("the reply is empty")


def parse_explanation(reply: str) -> str:
    """Return the explanation of `{"explanation": "..."}` or `[EXPLANATION]: ...`, on one line."""
    marked = {" ".join(text.split()) for text in _marked(without_thoughts(reply))}
    if len(marked) > 1:
        raise WireError("the reply holds more than one explanation")
    text = marked.pop() if marked else ""
    if not text or text.startswith("{"):
        text = _field(find_json(reply), "explanation")
    if not isinstance(text, str) or not (line := _printable_line(text)):
        raise WireError("`explanation` is no text")
    if _is_example(line):
        raise WireError("`explanation` repeats the form's own example")
    return line


def _is_example(text: str) -> bool:
    return text.strip(" .\"'").casefold() in EXAMPLES


def _printable_line(text: str) -> str:
    """Return the text on one line, without control characters that a terminal would obey."""
    spaced = " ".join(clean(text).split())
    return "".join(c for c in spaced if unicodedata.category(c) != "Cc").strip()


def _marked(text: str) -> list[str]:
    """Return what follows each marker: the rest of its line, else the one line that comes."""
    if text.startswith(("{", "```")):
        return []
    found = []
    for part in _MARKER.split(text)[1:]:
        first, *rest = part.splitlines() or [""]
        following = [line for line in rest if line.strip()]
        if first.strip():
            found.append(first)
        elif len(following) == 1:
            found.append(following[0])
        else:
            raise WireError("no single line follows [EXPLANATION]:")
    return found


def parse_ratings(reply: str, asked: Collection[int]) -> Ratings:
    """Return the ratings of `{"ratings": [{"id": 3, "rating": 2}]}`.

    A bare list, one bare entry, and `{"3": 2}` with or without `ratings` are read too, ids and
    ratings as strings as well. Raises `WireError` if there is no rating at all for the ids asked.
    """
    found: dict[int, set[int]] = {}
    counts = dict.fromkeys(("invented", "duplicate", "malformed", "out_of_range"), 0)
    for raw_id, raw_rating in _rating_pairs(find_json(reply)):
        number, rating = _integer(raw_id), _integer(raw_rating)
        if number is None:
            counts["malformed"] += 1
        elif number not in asked:
            counts["invented"] += 1
        elif rating is None:
            counts["malformed" if not _is_number(raw_rating) else "out_of_range"] += 1
        elif rating not in RATINGS:
            counts["out_of_range"] += 1
        else:
            counts["duplicate"] += rating in found.get(number, ())
            found.setdefault(number, set()).add(rating)
    ratings = {number: min(values) for number, values in found.items() if len(values) == 1}
    flaws = Flaws(**counts, conflicting=len(found) - len(ratings))
    if asked and not ratings:
        raise WireError("the reply rates none of the ids asked for")
    return Ratings(ratings, tuple(number for number in asked if number not in ratings), flaws)


def _rating_pairs(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, dict) and "ratings" not in value:
        if "id" in value and "rating" in value:
            value = [value]
        elif not value or not all(_integer(key) is not None for key in value):
            raise WireError("the reply has no `ratings`")
    else:
        value = _field(value, "ratings")
    if isinstance(value, dict):
        return list(value.items())
    if not isinstance(value, list):
        raise WireError("`ratings` is no list")
    return [
        (entry.get("id"), entry.get("rating")) if isinstance(entry, dict) else (None, None)
        for entry in value
    ]


def parse_matches(reply: str, asked: Collection[int]) -> Matches:
    """Return the ids of `{"matches": [1, 3]}`, of which there may be none.

    A bare list is read too, ids as strings or as `{"id": 1}` as well. Raises `WireError` if
    none of the entries is an id asked for, or if they look like one flag per text.
    """
    entries = _field(find_json(reply), "matches")
    if not isinstance(entries, list):
        raise WireError("`matches` is no list")
    numbers = [_integer(e.get("id") if isinstance(e, dict) else e) for e in entries]
    ids = frozenset(n for n in numbers if n is not None and n in asked)
    if _are_flags(numbers, asked):
        raise WireError("`matches` holds one flag per text instead of ids")
    if entries and not ids:
        raise WireError("`matches` holds none of the ids asked for")
    valid = [number for number in numbers if number is not None]
    kept = [number for number in valid if number in ids]
    flaws = Flaws(
        invented=len(valid) - len(kept),
        duplicate=len(kept) - len(ids),
        malformed=len(numbers) - len(valid),
    )
    return Matches(ids, flaws)


def _are_flags(numbers: list[int | None], asked: Collection[int]) -> bool:
    """Return whether numbers look like a 0 or 1 for each text rather than like ids."""
    if len(numbers) != len(asked) or not set(numbers) <= {0, 1}:
        return False
    return len(set(numbers)) < len(numbers) or (0 in numbers and 0 not in asked)


def parse_texts(reply: str) -> Texts:
    """Return the texts of `{"texts": ["..."]}` or of a bare list; duplicates are dropped."""
    entries = _field(find_json(reply), "texts")
    if not isinstance(entries, list):
        raise WireError("`texts` is no list")
    strings = [e.get("text") if isinstance(e, dict) else e for e in entries]
    valid = [clean(text).strip() for text in strings if isinstance(text, str) and text.strip()]
    valid = [text for text in valid if not _is_example(text)]
    if not valid:
        raise WireError("`texts` holds no text")
    texts = tuple(dict.fromkeys(valid))
    flaws = Flaws(duplicate=len(valid) - len(texts), malformed=len(entries) - len(valid))
    return Texts(texts, flaws)


def _field(value: Any, name: str) -> Any:
    """Return an object's field; a bare list stands for it."""
    if isinstance(value, list):
        return value
    if name not in value:
        raise WireError(f"the reply has no `{name}`")
    return value[name]


def _integer(value: Any) -> int | None:
    """Return 3 for 3, 3.0 and "3"; None for anything else, true and NaN among them."""
    if isinstance(value, str):
        digits = value.strip()
        return int(digits) if re.fullmatch(r"-?[0-9]{1,9}", digits) else None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, float) and value == value
