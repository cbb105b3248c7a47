"""Numbers, ranges and tokens as the report shows them."""

from __future__ import annotations

import pytest

from pie_jax.charts.text import number, percent, printable, ranges, shorten, visible


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (0.0, "0"),
        (0.1234, "0.123"),
        (-1.5, "−1.50"),
        (12.34, "12.3"),
        (1234.5, "1234"),
        (1e-5, "1.0e−05"),
    ],
)
def test_number(value: float | None, text: str) -> None:
    assert number(value) == text


def test_percent() -> None:
    assert percent(0.125) == "12.5%"
    assert percent(None) == "–"


def test_ranges_join_neighbours_and_stop() -> None:
    assert ranges([9, 3, 4, 5, 5]) == "3–5, 9"
    assert ranges(range(0, 20, 2), most=2) == "0, 2, …"
    assert ranges([]) == ""


def test_visible_shows_every_character() -> None:
    assert visible(" Mary") == "␣Mary"
    assert visible("\n\t") == "↵⇥"
    assert visible("\u202e\x00\ud800") == "\\u202e\\x00\\ud800"
    assert visible("") == "∅"
    assert printable("a b\x07") == "a b\\x07"


def test_shorten() -> None:
    assert shorten("abc", 3) == "abc"
    assert shorten("abcd", 3) == "ab…"
