"""A measure against the budget, one line a method, as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from pie_jax.charts import svg
from pie_jax.charts.text import number
from pie_jax.intervals import Mean

_LEFT, _TOP, _BOTTOM, _PAD = 52.0, 16.0, 48.0, 24.0
# Room for the lines' names; between two of them; between methods' whiskers at one budget.
_NAMES, _NAME_GAP, _DODGE = 190.0, 19.0, 5.0
# Between two numbers on the budget axis.
_TICK_GAP = 30.0
# A level this far above everything else is named, not drawn: it would flatten the lines.
_FAR = 1.5


class ChartSize(NamedTuple):
    """Width and height of a chart, and whether its lines are named at their ends."""

    width: float
    height: float
    names: bool


LARGE, SMALL = ChartSize(876.0, 400.0, True), ChartSize(418.0, 240.0, False)


class Series(NamedTuple):
    """A method's line: (budget, mean with interval) in order of the budget; `style` its colour."""

    name: str
    style: int
    points: list[tuple[int, Mean]]


class Axes(NamedTuple):
    """Where budgets and values lie on the drawing."""

    budgets: list[int]
    ticks: list[float]
    size: ChartSize

    @property
    def right(self) -> float:
        """Return where the plot ends."""
        return self.size.width - (_NAMES if self.size.names else 8.0)

    @property
    def bottom(self) -> float:
        """Return where the plot ends below."""
        return self.size.height - _BOTTOM

    def x(self, budget: float) -> float:
        """Return the place of a budget, on a log scale."""
        low, high = math.log(self.budgets[0]), math.log(self.budgets[-1])
        share = 0.5 if high == low else (math.log(budget) - low) / (high - low)
        return _LEFT + _PAD + (self.right - _LEFT - 2 * _PAD) * share

    def y(self, value: float) -> float:
        """Return the height of a value."""
        low, high = self.ticks[0], self.ticks[-1]
        return self.bottom - (value - low) / (high - low) * (self.bottom - _TOP)


def line_chart(
    series: Sequence[Series],
    level: tuple[str, float] | None,
    *,
    x_label: str,
    y_label: str,
    size: ChartSize = LARGE,
) -> Markup:
    """Draw means with 95% intervals over a logarithmic budget; `level` is a named constant.

    Whiskers of methods at one budget stand side by side.
    """
    series = [one for one in series if one.points]
    if not series:
        return Markup("")
    axes, inside = _axes(series, level, size)
    shifts = [_DODGE * (i - (len(series) - 1) / 2) for i in range(len(series))]
    parts = [_frame(axes, x_label, y_label)]
    if level is not None and inside:
        parts.append(svg.line(_LEFT, axes.y(level[1]), axes.right, axes.y(level[1]), "level"))
    for draw in (_whiskers, _line):
        parts += [draw(one, axes, shift) for one, shift in zip(series, shifts, strict=True)]
    if size.names:
        parts.append(_names(series, level, axes, shifts))
    label = f"{y_label} against {x_label} for {', '.join(one.name for one in series)}"
    return svg.figure(size.width, size.height, label, *parts)


def _axes(
    series: Sequence[Series], level: tuple[str, float] | None, size: ChartSize
) -> tuple[Axes, bool]:
    """Return the axes, and whether the level lies within them."""
    means = [mean for one in series for _, mean in one.points]
    low = min([mean.low for mean in means] + [0.0])
    high = max([mean.high for mean in means] + [0.0])
    inside = level is not None and (level[1] <= _FAR * high or not size.names)
    if level is not None and inside:
        low, high = min(low, level[1]), max(high, level[1])
    budgets = sorted({budget for one in series for budget, _ in one.points})
    return Axes(budgets, nice_ticks(low, high, 6 if size.names else 4), size), inside


def nice_ticks(low: float, high: float, most: int) -> list[float]:
    """Return at most about `most` round numbers, from at most `low` to at least `high`."""
    if not high > low:
        return [low, low + 1.0]
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.9999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _frame(axes: Axes, x_label: str, y_label: str) -> Markup:
    right, bottom = axes.right, axes.bottom
    parts = []
    for tick in axes.ticks:
        y = axes.y(tick)
        parts.append(svg.line(_LEFT, y, right, y, "axis" if tick == 0 else "grid"))
        parts.append(svg.text(_LEFT - 8, y + 4, f"{tick:g}".replace("-", "−"), "tick end"))
    last = -math.inf
    for budget in axes.budgets:
        x = axes.x(budget)
        parts.append(svg.line(x, bottom, x, bottom + 4, "axis"))
        if x - last >= _TICK_GAP:
            parts.append(svg.text(x, bottom + 18, str(budget), "tick middle"))
            last = x
    parts.append(svg.text((_LEFT + right) / 2, axes.size.height - 8, x_label, "axis-label middle"))
    middle = (_TOP + bottom) / 2
    turn = f"rotate(-90 12 {middle:g})"
    parts.append(svg.text(12, middle, y_label, "axis-label middle", transform=turn))
    return svg.tag("g", *parts)


def _whiskers(one: Series, axes: Axes, shift: float) -> Markup:
    parts = []
    for budget, mean in one.points:
        x = axes.x(budget) + shift
        parts.append(svg.line(x, axes.y(mean.low), x, axes.y(mean.high), "whisker"))
    return svg.tag("g", *parts, class_=f"s{one.style % svg.STYLES}")


def _line(one: Series, axes: Axes, shift: float) -> Markup:
    name = f"s{one.style % svg.STYLES}"
    at = [(axes.x(budget) + shift, axes.y(mean.mean)) for budget, mean in one.points]
    parts = [svg.path(at, f"line {name}")]
    for (x, y), (budget, mean) in zip(at, one.points, strict=True):
        words = f"{one.name}, K = {budget}: {number(mean.mean)}"
        if mean.n > 1:
            interval = f"{number(mean.low)} to {number(mean.high)}"
            words += f" (95% interval {interval}, n = {mean.n})"
        parts.append(svg.marker(x, y, one.style, svg.tag("title", words)))
    return svg.tag("g", *parts)


def _names(
    series: Sequence[Series],
    level: tuple[str, float] | None,
    axes: Axes,
    shifts: Sequence[float],
) -> Markup:
    """Name every line at its right end, apart from each other."""
    ends: list[tuple[tuple[float, float], Markup, str]] = []
    for one, shift in zip(series, shifts, strict=True):
        budget, mean = one.points[-1]
        start = (axes.x(budget) + shift + 7, axes.y(mean.mean))
        ends.append((start, svg.marker(axes.right + 18, 0, one.style), one.name))
    if level is not None:
        y = axes.y(level[1])
        name = level[0] if y >= 0 else f"↑ {level[0]} ({number(level[1])})"
        ends.append(((axes.right, max(y, _TOP)), Markup(""), name))
    ends.sort(key=lambda end: end[0][1])
    places = spread([start[1] for start, _, _ in ends], _NAME_GAP, _TOP, axes.bottom)
    parts = []
    for (start, mark, name), y in zip(ends, places, strict=True):
        parts.append(svg.path([start, (axes.right, start[1]), (axes.right + 12, y)], "leader"))
        parts.append(svg.tag("g", mark, transform=f"translate(0 {y:.1f})"))
        parts.append(svg.text(axes.right + (28 if mark else 16), y + 4, name))
    return svg.tag("g", *parts)


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move sorted places at least `gap` apart, staying above `high` where there is room."""
    placed: list[float] = []
    for want in wanted:
        placed.append(max(want, placed[-1] + gap if placed else low))
    limit = high
    for i in reversed(range(len(placed))):
        placed[i] = min(placed[i], limit)
        limit = placed[i] - gap
    return placed
