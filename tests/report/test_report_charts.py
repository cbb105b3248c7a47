"""The report's drawings: what is in them, where it lies, and that nothing breaks at the edges."""

from __future__ import annotations

import itertools
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pie_jax.charts.line_chart import SMALL, Series, line_chart, nice_ticks, spread
from pie_jax.intervals import Mean
from pie_jax.report.circuit_map import KeptOccurrence, circuit_map

HOSTILE = '<script>alert("1")</script>'


def _series(name: str = "fap", *values: float) -> Series:
    return Series(name, 0, [(10 * 2**i, Mean(v, v / 2, 2 * v, 8)) for i, v in enumerate(values)])


def _chart(*series: Series, level: tuple[str, float] | None = None, **more) -> str:
    return str(line_chart(series, level, x_label="K", y_label="KL", **more))


def _titles(drawing: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(drawing).iter("title")]


def test_every_mean_is_a_mark_with_its_numbers() -> None:
    titles = _titles(_chart(_series("fap", 0.4, 0.2), _series("random", 0.9, 0.8)))
    assert titles[0] == "fap, K = 10: 0.400 (95% interval 0.200 to 0.800, n = 8)"
    assert [title.split(":")[0] for title in titles] == [
        "fap, K = 10",
        "fap, K = 20",
        "random, K = 10",
        "random, K = 20",
    ]


def test_lower_means_lie_lower_and_larger_budgets_to_the_right() -> None:
    root = ElementTree.fromstring(_chart(_series("fap", 0.4, 0.2, 0.1)))
    marks = [e for e in root.iter("circle") if list(e)]
    xs, ys = ([float(mark.attrib[key]) for mark in marks] for key in ("cx", "cy"))
    assert xs == sorted(xs)
    assert ys == sorted(ys)
    # Doubling the budget is one step on a log axis.
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)


def test_a_level_is_drawn_where_it_fits_and_named_where_it_is_far() -> None:
    near = _chart(_series("fap", 0.4, 0.2), level=("nothing kept", 0.9))
    far = _chart(_series("fap", 0.4, 0.2), level=("nothing kept", 9.0))
    assert 'class="level"' in near
    assert 'class="level"' not in far
    assert "↑ nothing kept (9.00)" in far


def test_a_method_without_means_is_left_out() -> None:
    assert "relp" not in _chart(_series("fap", 0.4), Series("relp", 1, []))
    assert _chart(Series("relp", 1, [])) == ""


@pytest.mark.parametrize("value", [0.0, 1e-9, 1e6])
def test_one_budget_and_any_size_of_value(value: float) -> None:
    for drawing in (_chart(_series("fap", value)), _chart(_series("fap", value), size=SMALL)):
        assert "nan" not in drawing
        assert _titles(drawing)


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_cover_the_values(low: float, size: float) -> None:
    ticks = nice_ticks(low, low + size, 6)
    slack = 1e-8 * (abs(low) + size)
    assert ticks[0] <= low + slack
    assert ticks[-1] >= low + size - slack
    assert 2 <= len(ticks) <= 9


def test_names_are_spread_apart() -> None:
    places = spread([10, 11, 12, 100], 5, 0, 100)
    assert all(b - a >= 5 for a, b in itertools.pairwise(places))
    assert places[-1] == 100


def test_map_places_discs_and_squares() -> None:
    kept = [
        KeptOccurrence(0, 1, 7, 2.0, "promotes a"),
        KeptOccurrence(2, 1, 8, -1.0),
        KeptOccurrence(2, 1, 9, 0.5),
    ]
    drawing = str(circuit_map(kept, ["<s>", " Mary", "to"], 3))
    root = ElementTree.fromstring(drawing)
    discs = {next(iter(e)).text: e for e in root.iter("circle")}
    squares = list(root.iter("rect"))
    first = "layer 0, feature 7, position 1 (␣Mary): score 2.00\npromotes a"
    assert len(discs) == 2
    assert len(squares) == 1
    disc, second = discs[first], next(e for text, e in discs.items() if text != first)
    # The last layer is on top, and area grows with the score.
    assert float(second.attrib["cy"]) < float(disc.attrib["cy"])
    assert float(second.attrib["r"]) == pytest.approx(float(disc.attrib["r"]) / 2, abs=0.1)


@pytest.mark.parametrize("kept", [[], [KeptOccurrence(0, 1, 7, 0.0)]])
def test_map_of_nothing_or_of_no_score(kept: list[KeptOccurrence]) -> None:
    drawing = str(circuit_map(kept, ["<s>", "a"], 2))
    assert "nan" not in drawing
    assert drawing.count("<circle") == len(kept)


def test_crowded_cells_do_not_overlap() -> None:
    kept = [KeptOccurrence(1, 2, i, 1.0) for i in range(200)]
    root = ElementTree.fromstring(str(circuit_map(kept, ["<s>", "a", "b"], 3)))
    at = [(float(e.attrib["cx"]), float(e.attrib["cy"])) for e in root.iter("circle")]
    radius = float(next(root.iter("circle")).attrib["r"])
    for (x, y), (u, v) in itertools.combinations(at, 2):
        assert (x - u) ** 2 + (y - v) ** 2 >= (2 * radius) ** 2 * 0.98
    width = float(root.attrib["viewBox"].split()[2])
    assert all(0 < x < width for x, _ in at)


def test_texts_are_escaped() -> None:
    drawings = [
        _chart(_series(HOSTILE, 0.4), level=(HOSTILE, 0.3)),
        str(circuit_map([KeptOccurrence(0, 1, 7, 1.0, HOSTILE)], ["<s>", HOSTILE], 1)),
    ]
    for drawing in drawings:
        assert not re.search("<script", drawing)
        assert "&lt;scr" in drawing
