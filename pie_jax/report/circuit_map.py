"""One prompt's kept occurrences by layer and position, as inline SVG."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from pie_jax.charts import svg
from pie_jax.charts.text import number, shorten, visible

_LEFT, _TOP, _WIDTH, _HEIGHT = 60.0, 8.0, 876.0, 320.0
# Sides of columns and rows: at least (below, labels of tokens touch), and as far as few spread.
_LEAST_WIDTH, _LEAST_HEIGHT, _ROOMY = 16.0, 26.0, 56.0
# Sides of the square that a mark has to itself.
_LEAST_SLOT, _MOST_SLOT = 8.0, 16.0
_LABEL_LENGTH = 14


class KeptOccurrence(NamedTuple):
    """A kept occurrence; `note` says what the feature does, for the tooltip."""

    layer: int
    position: int
    feature: int
    score: float
    note: str = ""


class Layout(NamedTuple):
    """Edges of the columns [T + 1] and, from the bottom up, of the rows [L + 1]."""

    x: list[float]
    y: list[float]
    slot: float

    def middle(self, layer: int, position: int) -> tuple[float, float]:
        """Return the middle of a cell."""
        x, y = self.x, self.y
        return (x[position] + x[position + 1]) / 2, (y[layer] + y[layer + 1]) / 2


def circuit_map(kept: Sequence[KeptOccurrence], tokens: Sequence[str], layers: int) -> Markup:
    """Draw occurrences as discs (positive score) and squares (negative) of area ~ |score|.

    Rows are layers, the last on top; columns are the prompt's tokens, wider where a cell holds
    many occurrences side by side.
    """
    cells: dict[tuple[int, int], list[KeptOccurrence]] = defaultdict(list)
    for one in kept:
        cells[one.layer, one.position].append(one)
    layout = _layout({at: len(members) for at, members in cells.items()}, len(tokens), layers)
    strongest = max((abs(one.score) for one in kept), default=0.0)
    marks = []
    for (layer, position), members in sorted(cells.items()):
        middle = layout.middle(layer, position)
        marks += _cell(members, middle, layout.slot, strongest, tokens[position])
    label = f"{len(kept)} kept occurrences by layer and token position"
    longest = max((len(shorten(visible(t), _LABEL_LENGTH)) for t in tokens), default=0)
    # Tokens stand at 45 degrees below their column.
    height = layout.y[0] + 28 + 6.8 * 0.71 * longest
    grid = _grid(tokens, layers, layout)
    return svg.figure(layout.x[-1] + 8, height, label, grid, svg.tag("g", *marks))


def _layout(counts: dict[tuple[int, int], int], tokens: int, layers: int) -> Layout:
    sides = {at: _sides(count) for at, count in counts.items()}
    most = max((columns for columns, _ in sides.values()), default=1)
    slot = min(max(40.0 / most, _LEAST_SLOT), _MOST_SLOT)
    columns, rows = [0.0] * tokens, [0.0] * layers
    for (layer, position), (wide, high) in sides.items():
        columns[position] = max(columns[position], slot * wide + 6)
        rows[layer] = max(rows[layer], slot * high + 6)
    widths = _spread(columns, _WIDTH - _LEFT - 8, _LEAST_WIDTH)
    heights = _spread(rows, _HEIGHT, _LEAST_HEIGHT)
    x, y = [_LEFT], [_TOP + sum(heights)]
    for width in widths:
        x.append(x[-1] + width)
    for height in heights:
        y.append(y[-1] - height)
    return Layout(x, y, slot)


def _spread(needed: list[float], room: float, least: float) -> list[float]:
    """Give every column what it needs, and the same width, `least` or more, out of what is left."""
    wide = [need for need in needed if need > least]
    left = (room - sum(wide)) / max(len(needed) - len(wide), 1)
    return [max(need, min(max(left, least), _ROOMY)) for need in needed]


def _sides(count: int) -> tuple[int, int]:
    """Return the columns and rows in which a cell's marks are laid."""
    columns = math.ceil(math.sqrt(count))
    return columns, math.ceil(count / columns)


def _grid(tokens: Sequence[str], layers: int, layout: Layout) -> Markup:
    right, bottom = layout.x[-1], layout.y[0]
    parts = [svg.line(_LEFT, y, right, y, "grid") for y in layout.y[1:]]
    parts += [svg.line(x, _TOP, x, bottom, "grid") for x in layout.x]
    parts.append(svg.line(_LEFT, bottom, right, bottom, "axis"))
    for layer in range(layers):
        y = (layout.y[layer] + layout.y[layer + 1]) / 2
        parts.append(svg.text(_LEFT - 8, y + 4, f"L{layer}", "tick end"))
    for position, token in enumerate(tokens):
        x = (layout.x[position] + layout.x[position + 1]) / 2
        shown = visible(token)
        title = svg.tag("title", f"position {position}: {shown}")
        turn = f"rotate(-45 {x + 4:.1f} {bottom + 14:.1f})"
        label = shorten(shown, _LABEL_LENGTH)
        parts.append(
            svg.tag(
                "text", label, title, x=x + 4, y=bottom + 14, class_="token-label", transform=turn
            )
        )
    return svg.tag("g", *parts)


def _cell(
    members: list[KeptOccurrence],
    middle: tuple[float, float],
    slot: float,
    strongest: float,
    token: str,
) -> list[Markup]:
    members = sorted(members, key=lambda one: -abs(one.score))
    columns, rows = _sides(len(members))
    marks = []
    for i, one in enumerate(members):
        row, column = divmod(i, columns)
        in_row = min(columns, len(members) - row * columns)
        x = middle[0] + (column - (in_row - 1) / 2) * slot
        y = middle[1] + (row - (rows - 1) / 2) * slot
        share = math.sqrt(abs(one.score) / strongest) if strongest > 0 else 0.0
        marks.append(_mark(one, x, y, slot * max(0.47 * share, 0.14), token))
    return marks


def _mark(one: KeptOccurrence, x: float, y: float, radius: float, token: str) -> Markup:
    words = (
        f"layer {one.layer}, feature {one.feature}, position {one.position} ({visible(token)}): "
        f"score {number(one.score)}"
    )
    title = svg.tag("title", words + (f"\n{one.note}" if one.note else ""))
    if one.score >= 0:
        return svg.tag("circle", title, cx=x, cy=y, r=radius, class_="positive")
    half = radius * math.sqrt(math.pi) / 2
    return svg.tag(
        "rect",
        title,
        x=x - half,
        y=y - half,
        width=2 * half,
        height=2 * half,
        class_="negative",
    )
