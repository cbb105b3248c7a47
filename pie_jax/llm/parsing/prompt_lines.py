"""Texts into prompts, so that no text can step out of its place."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable

from pie_jax.llm.request import clean

# Control, format (bidi, zero width, tags), surrogate; line and paragraph separators.
_ESCAPED = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def text_lines(texts: Iterable[tuple[int, str]]) -> str:
    """Return (id, text) pairs as JSON objects, one a line, that no text can step out of.

    Line breaks of any kind, control and format characters are escaped; lone surrogates become
    U+FFFD.
    """
    return "\n".join(_line(number, text) for number, text in texts)


def _line(number: int, text: str) -> str:
    encoded = json.dumps({"id": number, "text": clean(text)}, ensure_ascii=False)
    return encoded if encoded.isascii() else "".join(map(_escape, encoded))


def _escape(character: str) -> str:
    if character.isascii() or unicodedata.category(character) not in _ESCAPED:
        return character
    return json.dumps(character)[1:-1]
