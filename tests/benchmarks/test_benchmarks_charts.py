"""Log-log panels of the benchmarks, and the exponents beside them."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from benchmarks import scaling
from benchmarks.parts.log_chart import Panel, log_chart, slope
from benchmarks.parts.random_weights import SHAPES

LINES = {"<flat>": [(10.0, 5.0), (100.0, 5.0)], "rising": [(10.0, 1.0), (100.0, 10.0)]}


@pytest.mark.parametrize("power", [0.0, 1.0, -0.5])
def test_slope_of_a_power_law(power: float):
    points = [(x, 3.0 * x**power) for x in (1.0, 2.0, 8.0, 50.0)]
    assert slope(points) == pytest.approx(power, abs=1e-12)


def test_a_chart_stands_alone_and_places_points_on_log_scales():
    root = ElementTree.fromstring(log_chart([Panel("one", "x", LINES)], y_label="ms"))
    space = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{space}svg"
    lines = [p.get("d", "") for p in root.iter(f"{space}path") if "guide" not in p.get("class", "")]
    flat, rising = ([float(x) for x in re.findall(r"-?[\d.]+", line)] for line in lines)
    assert flat[1] == flat[3]
    # A decade up by as much as the frame gives one decade: y runs from 1 to 10.
    guide = next(p.get("d", "") for p in root.iter(f"{space}path") if "guide" in p.get("class", ""))
    assert [float(x) for x in re.findall(r"-?[\d.]+", guide)] == rising
    assert "<flat>" in [t.text for t in root.iter(f"{space}text")]
    assert "<flat> at 10: 5" in [t.text for t in root.iter(f"{space}title")]


@pytest.mark.slow
def test_a_point_of_a_sweep():
    shape = SHAPES["tiny"]
    (point,) = scaling.occurrences(shape, [shape.l0])
    assert set(point) == {"occurrences", "rows", *scaling.PARTS}
    assert all(point[part] > 0 for part in scaling.PARTS)
    # The union of two runs that differ in one token of the middle.
    one_run = shape.l0 * shape.layers * (shape.tokens - 1)
    assert 0.5 * one_run < point["occurrences"] < 2 * one_run


@pytest.mark.slow
def test_features_that_are_never_active_change_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scaling, "_FEWEST", SHAPES["tiny"].features)
    small, large = scaling.dictionary(SHAPES["tiny"], [192, 768])
    assert (small["occurrences"], small["rows"]) == (large["occurrences"], large["rows"])


def test_exponents_and_plot_of_sweeps():
    points = [
        {"features": x, **{part: x**i for i, part in enumerate(scaling.PARTS)}} for x in (2.0, 8.0)
    ]
    powers = scaling.exponents({"features": points})["features"]
    assert powers == pytest.approx({part: i for i, part in enumerate(scaling.PARTS)})
    assert scaling.plot({"features": points}).startswith("<svg")
