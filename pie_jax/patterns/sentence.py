"""Patterns as one sentence and back; tokens are JSON strings, so that none can end the sentence.

sentence  = "Fires on " pattern *("; also on " pattern) "." [" " note]
pattern   = set *(", " condition)
set       = "any token" | "any capitalised word" | "any lower-case word" | "any number"
          | "any punctuation" | "any line break" | strings
strings   = JSON-string *(" or " JSON-string)
condition = "right after " set | "two tokens after " set | "right before " set
          | "with " strings " somewhere before" | "right after a token seen before"
          | "seen before" | "not seen before" | "within the first " number " tokens"
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pie_jax.patterns.pattern import KINDS, Pattern, TokenSet

START = "Fires on "
_NEXT = "; also on "
_OR = " or "
_DECODER = json.JSONDecoder()


class PatternError(ValueError):
    """A sentence that the grammar does not know."""


def write(patterns: Sequence[Pattern], note: str = "") -> str:
    """Return the sentence of one or more patterns, with a note in brackets after it."""
    return START + _NEXT.join(map(_pattern, patterns)) + "." + (f" ({note})" if note else "")


def parse(sentence: str) -> tuple[Pattern, ...]:
    """Return the patterns of a sentence; raises `PatternError` where it is none."""
    reader = _Reader(sentence)
    reader.expect(START)
    patterns = [_read_pattern(reader)]
    while reader.take(_NEXT):
        patterns.append(_read_pattern(reader))
    reader.expect(".")
    if reader.rest() and not reader.rest().startswith(" ("):
        raise PatternError(f"does not end at {reader.rest()[:20]!r}")
    return tuple(patterns)


def _pattern(pattern: Pattern) -> str:
    parts = [_set(pattern.token)]
    if pattern.previous:
        parts.append(f"right after {_set(pattern.previous)}")
    if pattern.second_previous:
        parts.append(f"two tokens after {_set(pattern.second_previous)}")
    if pattern.next:
        parts.append(f"right before {_set(pattern.next)}")
    if pattern.earlier:
        parts.append(f"with {strings(pattern.earlier)} somewhere before")
    if pattern.previous_seen:
        parts.append("right after a token seen before")
    if pattern.seen is not None:
        parts.append("seen before" if pattern.seen else "not seen before")
    if pattern.within is not None:
        parts.append(f"within the first {pattern.within} tokens")
    return ", ".join(parts)


def _set(tokens: TokenSet) -> str:
    return tokens.kind or strings(tokens.listed)


def strings(tokens: Sequence[str]) -> str:
    """Return tokens as JSON strings with "or" between them."""
    return _OR.join(json.dumps(token, ensure_ascii=False) for token in tokens)


class _Reader:
    def __init__(self, text: str):
        self._text, self._at = text, 0

    def rest(self) -> str:
        return self._text[self._at :]

    def take(self, word: str) -> bool:
        found = self._text.startswith(word, self._at)
        self._at += len(word) * found
        return found

    def expect(self, word: str) -> None:
        if not self.take(word):
            raise PatternError(f"expected {word!r} before {self.rest()[:20]!r}")

    def value(self, kind: type) -> Any:
        """Read one JSON value of a kind."""
        try:
            value, self._at = _DECODER.raw_decode(self._text, self._at)
        except ValueError as error:
            raise PatternError(f"no JSON value before {self.rest()[:20]!r}") from error
        if type(value) is not kind:
            raise PatternError(f"{value!r} stands where a {kind.__name__} belongs")
        return value


def _read_pattern(reader: _Reader) -> Pattern:
    fields: dict[str, Any] = {"token": _read_set(reader)}
    while reader.take(", "):
        name, value = _read_condition(reader)
        if name in fields:
            raise PatternError(f"says {name} twice")
        fields[name] = value
    return Pattern(**fields)


def _read_condition(reader: _Reader) -> tuple[str, Any]:
    if reader.take("right after a token seen before"):
        return "previous_seen", True
    if reader.take("right after "):
        return "previous", _read_set(reader)
    if reader.take("two tokens after "):
        return "second_previous", _read_set(reader)
    if reader.take("right before "):
        return "next", _read_set(reader)
    if reader.take("with "):
        strings = _read_strings(reader)
        reader.expect(" somewhere before")
        return "earlier", strings
    if reader.take("seen before"):
        return "seen", True
    if reader.take("not seen before"):
        return "seen", False
    reader.expect("within the first ")
    number = reader.value(int)
    reader.expect(" tokens")
    return "within", number


def _read_set(reader: _Reader) -> TokenSet:
    for kind in KINDS:
        if reader.take(kind):
            return TokenSet(kind)
    return TokenSet(listed=_read_strings(reader))


def _read_strings(reader: _Reader) -> tuple[str, ...]:
    strings = [reader.value(str)]
    while reader.take(_OR):
        strings.append(reader.value(str))
    return tuple(strings)
