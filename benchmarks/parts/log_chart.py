"""Panels with two logarithmic axes, as one SVG that stands alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from pie_jax.charts import svg

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 330.0, 330.0, 56.0, 14.0, 34.0, 48.0
_KEY, _KEY_GAP = 170.0, 22.0
_COLOURS = ("#0072b2", "#d55e00", "#008a66", "#b0478a", "#6f7782", "#9a7200", "#2f94d0")
_STYLE = """
text{font:12px system-ui,sans-serif;fill:#333}.title{font-weight:600}.end{text-anchor:end}
.middle{text-anchor:middle}.grid{stroke:#e4e4e4}.guide{stroke:#999;stroke-dasharray:4 4}
.line{fill:none;stroke-width:2}.background{fill:#fff}
"""


class Panel(NamedTuple):
    """One drawing: `lines` name to (x, y) points, all positive; x and y on log scales."""

    title: str
    x_label: str
    lines: dict[str, list[tuple[float, float]]]


class _Scale(NamedTuple):
    """From `low`..`high` on a log scale to `start`..`end` on the drawing."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        span = math.log(self.high) - math.log(self.low)
        share = (math.log(value) - math.log(self.low)) / span
        return self.start + share * (self.end - self.start)


def log_chart(panels: Sequence[Panel], *, y_label: str) -> Markup:
    """Draw panels side by side over one y axis; the dashed line grows in proportion to x."""
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    values = [y for panel in panels for line in panel.lines.values() for _, y in line]
    low, high = (10.0 ** f(math.log10(v)) for f, v in
                 ((math.floor, min(values)), (math.ceil, max(values))))  # fmt: skip
    y = _Scale(low, max(high, 10 * low), _HEIGHT - _BOTTOM, _TOP)
    parts = [svg.tag("rect", width="100%", height="100%", class_="background")]
    for index, panel in enumerate(panels):
        drawn = _panel(panel, y, names)
        parts.append(svg.tag("g", drawn, transform=f"translate({index * _WIDTH:g} 0)"))
    for index, name in enumerate(names):
        at = _TOP + 10 + index * _KEY_GAP
        mark = svg.marker(len(panels) * _WIDTH + 16, at, index)
        parts.append(mark + svg.text(len(panels) * _WIDTH + 30, at + 4, name))
    parts.append(svg.text(14, _TOP - 18, y_label))
    width = len(panels) * _WIDTH + _KEY
    style = _STYLE + "".join(
        f".line.s{i}{{stroke:{c}}}.mark.s{i}{{fill:{c}}}" for i, c in enumerate(_COLOURS)
    )
    label = f"{y_label} against {', '.join(panel.x_label for panel in panels)}"
    return svg.tag(
        "svg", svg.tag("style", Markup(style)), *parts, xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width:g} {_HEIGHT:g}", width=width, role="img", aria_label=label,
    )  # fmt: skip


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the exponent of the power law through points: 1 is in proportion, 0 is flat."""
    xs, ys = ([math.log(point[axis]) for point in points] for axis in (0, 1))
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    across = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    return across / sum((x - mean_x) ** 2 for x in xs)


def _panel(panel: Panel, y: _Scale, names: list[str]) -> Markup:
    places = sorted({x for line in panel.lines.values() for x, _ in line})
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    x = _Scale(places[0], places[-1], _LEFT + 12, right - 12)
    parts = [svg.text(_LEFT, _TOP - 6, panel.title, "title")]
    for power in range(round(math.log10(y.low)), round(math.log10(y.high)) + 1):
        at = y.at(10.0**power)
        parts.append(svg.line(_LEFT, at, right, at, "grid"))
        parts.append(svg.text(_LEFT - 6, at + 4, f"{10.0**power:g}", "end"))
    last = -math.inf
    for place in places:
        parts.append(svg.line(x.at(place), bottom, x.at(place), bottom + 4, "grid"))
        if x.at(place) - last > 44:
            parts.append(svg.text(x.at(place), bottom + 18, f"{place:,.0f}", "middle"))
            last = x.at(place)
    parts.append(svg.text((_LEFT + right) / 2, _HEIGHT - 8, panel.x_label, "middle"))
    parts.append(_proportional(x, y))
    for name, line in panel.lines.items():
        style = names.index(name)
        drawn = [(x.at(a), y.at(b)) for a, b in line]
        parts.append(svg.path(drawn, f"line s{style % svg.STYLES}"))
        for a, b in line:
            words = svg.tag("title", f"{name} at {a:,.0f}: {b:.3g}")
            parts.append(svg.marker(x.at(a), y.at(b), style, words, size=3.5))
    return svg.tag("g", *parts)


def _proportional(x: _Scale, y: _Scale) -> Markup:
    """Return a line of slope 1 from the lower left, as far as it stays in the panel."""
    end = min(x.high, x.low * y.high / y.low)
    return svg.path(
        [(x.at(x.low), y.at(y.low)), (x.at(end), y.at(y.low * end / x.low))], "line guide"
    )
