"""Numbers and tokens as a reader sees them."""

from __future__ import annotations

from collections.abc import Iterable

UNDEFINED = "–"
_VISIBLE = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"}


def visible(text: str) -> str:
    """Return a token with its blanks and unprintable characters made visible."""
    shown = (_VISIBLE.get(c) or (c if c.isprintable() else _code(c)) for c in text)
    return "".join(shown) or "∅"


def printable(text: str) -> str:
    """Return text in which only line breaks, tabs and unprintable characters are replaced."""
    return "".join(c if c.isprintable() else _VISIBLE.get(c) or _code(c) for c in text)


def shorten(text: str, length: int) -> str:
    """Cut text to a length, with an ellipsis."""
    return text if len(text) <= length else text[: length - 1] + "…"


def number(value: float | None) -> str:
    """Return a number with three significant digits, `–` for one that is not defined."""
    if value is None or value != value:
        return UNDEFINED
    size = abs(value)
    if value == 0:
        return "0"
    if size < 5e-4 or size >= 1e5:
        text = f"{value:.1e}"
    else:
        digits = 3 if size < 1 else 2 if size < 10 else 1 if size < 100 else 0
        text = f"{value:.{digits}f}"
    return text.replace("-", "−")


def percent(value: float | None) -> str:
    """Return a share as a percentage."""
    return UNDEFINED if value is None or value != value else f"{100 * value:.3g}%"


def ranges(values: Iterable[int], most: int = 6) -> str:
    """Return whole numbers as ranges, such as `3–6, 9`; after `most` of them `…`."""
    runs: list[list[int]] = []
    for value in sorted(set(values)):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    shown = [str(a) if a == b else f"{a}–{b}" for a, b in runs[:most]]
    return ", ".join(shown + ["…"] * (len(runs) > most))


def count(n: int, noun: str) -> str:
    """Return `1 prompt`, `2 prompts`."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def _code(character: str) -> str:
    point = ord(character)
    return f"\\x{point:02x}" if point < 256 else f"\\u{point:04x}"
