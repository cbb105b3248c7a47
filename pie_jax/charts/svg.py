"""The few marks that the charts are drawn with; every text and value is escaped."""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup

STYLES = 7
_TAG = Markup("<{name}{attributes}>{inside}</{name}>")


def tag(name: str, *inside: str, **attributes: str | float) -> Markup:
    """Return an element; `class_` stands for class, and `_` in a name for `-`."""
    pairs = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _short(value))
        for key, value in attributes.items()
    )
    return _TAG.format(name=Markup(name), attributes=pairs, inside=Markup("").join(inside))


def text(x: float, y: float, content: str, class_: str = "", **more: str | float) -> Markup:
    """Return a line of text."""
    return tag("text", content, x=x, y=y, **({"class_": class_} if class_ else {}), **more)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """Return a straight line."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def path(points: Iterable[tuple[float, float]], class_: str) -> Markup:
    """Return a line through points."""
    joined = " L".join(f"{_short(x)} {_short(y)}" for x, y in points)
    return tag("path", d=f"M{joined}", class_=class_)


def marker(x: float, y: float, style: int, *inside: str, size: float = 4.5) -> Markup:
    """Return the mark of a series: a shape of its own beside its colour."""
    shape = [
        [],
        [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        [(0, -1.15), (1.1, 0.85), (-1.1, 0.85)],
        [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)],
        [(0, 1.15), (1.1, -0.85), (-1.1, -0.85)],
        [(-0.6, -1.1), (0.6, -1.1), (1.2, 0), (0.6, 1.1), (-0.6, 1.1), (-1.2, 0)],
        [(-1.2, -0.5), (1.2, -0.5), (1.2, 0.5), (-1.2, 0.5)],
    ][style % STYLES]
    name = f"mark s{style % STYLES}"
    if not shape:
        return tag("circle", *inside, cx=x, cy=y, r=size, class_=name)
    corners = " ".join(f"{_short(x + size * a)},{_short(y + size * b)}" for a, b in shape)
    return tag("polygon", *inside, points=corners, class_=name)


def figure(width: float, height: float, label: str, *inside: str) -> Markup:
    """Return a whole drawing with its description."""
    size = f"0 0 {_short(width)} {_short(height)}"
    style = f"width:{_short(width)}px"
    return tag("svg", *inside, viewBox=size, role="img", aria_label=label, style=style)


def _short(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")
