"""The one JSON value in a model's reply, if there is exactly one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

# Marks between a reasoning model's thoughts and its answer, as some servers leave them in the
# reply. Chat templates often write the opening one themselves, so that only the closing one comes.
_NAMES = "think|thinking|thought|thoughts|reasoning|reflection|seed:think"
_OPENS = re.compile(
    rf"\s*(?:<(?:{_NAMES})>|\[THINK\]|◁think▷|<\|begin_of_thought\|>|<\|channel\|>analysis)",
    re.IGNORECASE,
)
_CLOSES = re.compile(
    rf"</(?:{_NAMES})>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>"
    r"|<\|channel\|>final<\|message\|>",
    re.IGNORECASE,
)
_ANSWER = re.compile(r"\A\s*<(answer|response)>(.*)</\1>\s*\Z", re.DOTALL | re.IGNORECASE)
_FENCE = re.compile(r"^[ \t]*```[ \t]*\w*[ \t]*$", re.MULTILINE)
# A reply longer than this, or with more open brackets that lead nowhere, is no answer.
_LONGEST = 1_000_000
_FALSE_STARTS = 200


class WireError(ValueError):
    """A reply that cannot be read without guessing; the message says why."""


def find_json(text: str) -> Any:
    """Return the JSON of a reply: the whole of it, one fenced block, or one value in prose.

    In prose an object counts, and a list of objects; two different values are refused, and so
    is an object that has a key twice. Raises `WireError`.
    """
    text = without_thoughts(text)
    if len(text) > _LONGEST:
        raise WireError("the reply is too long to be an answer")
    for candidates in ([text], _fenced(text)):
        values = [value for value in map(_parsed, candidates) if value is not _NOTHING]
        if values:
            return _only(values)
    return _only(_embedded(text))


def without_thoughts(text: str) -> str:
    """Return a reply without the thoughts that a reasoning model put before it."""
    text = text.lstrip("\ufeff")
    while (end := _end_of_thoughts(text)) is not None:
        text = text[end:]
    if _OPENS.match(text):
        return ""  # thoughts that never ended
    return _ANSWER.sub(r"\2", text).strip()


def _end_of_thoughts(text: str) -> int | None:
    """Return where the first closing mark ends; None where there is none, or no answer behind it.

    A mark inside a JSON value is part of what the value says.
    """
    marks = list(_CLOSES.finditer(text))
    if not marks:
        return None
    spans = list(_value_spans(text))
    for mark in marks:
        if any(start < mark.start() < end for start, end in spans):
            continue
        # Behind thoughts that were opened there may be nothing, which is then the reply.
        if _OPENS.match(text) or text[mark.end() :].strip():
            return mark.end()
    return None


def _value_spans(text: str) -> Iterator[tuple[int, int]]:
    at, failures = 0, 0
    for start in (match.start() for match in re.finditer(r"[{\[]", text)):
        if start < at:
            continue
        try:
            _, at = _SPANS.raw_decode(text, start)
        except (ValueError, RecursionError):
            failures += 1
            if failures > _FALSE_STARTS:
                return
            continue
        yield start, at


_NOTHING = object()


def _parsed(text: str) -> Any:
    """Return the container that a text is, `_NOTHING` where it is none."""
    try:
        value = _DECODER.decode(text.strip())
    except (ValueError, RecursionError) as error:
        if isinstance(error, WireError):
            raise
        return _NOTHING
    return value if isinstance(value, dict | list) else _NOTHING


def _fenced(text: str) -> list[str]:
    """Return what stands between the first and second, third and fourth ... fence."""
    return _FENCE.split(text)[1::2]


def _embedded(text: str) -> list[Any]:
    """Return the objects, and lists of objects, that stand in prose."""
    found, at, failures = [], 0, 0
    for start in (match.start() for match in re.finditer(r"[{\[]", text)):
        if start < at:
            continue
        try:
            value, at = _DECODER.raw_decode(text, start)
        except WireError:
            raise
        except (ValueError, RecursionError):
            failures += 1
            if failures > _FALSE_STARTS:
                raise WireError("the reply holds no JSON that can be read") from None
            continue
        if isinstance(value, dict) or _is_list_of_objects(value):
            found.append(value)
    return found


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def _only(values: list[Any]) -> Any:
    if not values:
        raise WireError("the reply holds no JSON object")
    if any(value != values[0] for value in values[1:]):
        raise WireError("the reply holds more than one JSON value")
    return values[0]


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise WireError("the reply holds an object with a key twice")
    return found


_SPANS = json.JSONDecoder()
_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys)
