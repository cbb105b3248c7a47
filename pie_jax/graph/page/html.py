"""The page as a file: template, style and script put together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pie_jax.charts.text import count, printable
from pie_jax.features.texts import Reader
from pie_jax.files.atomic import replacing
from pie_jax.graph.listing import Labels, Scores
from pie_jax.graph.page.payload import Examples, Measured, Promoted, payload
from pie_jax.graph.types import Graph, Notes, Pruned
from pie_jax.report.explained import SHADES

_PACKAGE = "pie_jax.graph.page"
# In the order in which they define what the later ones use.
SCRIPTS = (
    "text",
    "data",
    "layout",
    "similarity",
    "state",
    "whole",
    "pinned",
    "details",
    "groups",
    "main",
)
_ESCAPES = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026"}


def write_page(
    path: str | Path,
    graph: Graph,
    pruned: Pruned,
    *,
    labels: Labels | None = None,
    scores: Scores | None = None,
    examples: Examples | None = None,
    promoted: Promoted | None = None,
    read: Reader | None = None,
    measured: Sequence[Measured] = (),
    notes: Notes | None = None,
    title: str = "Attribution graph",
    prompt: str | None = None,
) -> None:
    """Write what is kept of a graph as a page that opens from a file, without a network.

    `labels`, `scores` (by scorer; None is undefined), `examples` and `promoted` tokens are by
    (layer, feature); `read` turns the examples' windows into text. `measured` adds what runs of the
    model say of the graph's predictions. `notes` stand beside the node that is looked at and its
    edges. `prompt` stands below the title instead of the graph's tokens.

    Raises `PieError` where the file cannot be written.
    """
    data = payload(
        graph,
        pruned,
        labels=labels or {},
        scores=scores or {},
        examples=examples or {},
        promoted=promoted or {},
        read=read,
        measured=measured,
        notes=notes or Notes(),
    )
    page = render(data, title=title, prompt=_prompt(graph) if prompt is None else prompt)
    with replacing(Path(path)) as temporary:
        # Half a surrogate pair, which JSON allows, has no place in UTF-8.
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")


def _prompt(graph: Graph) -> str:
    text = "".join(graph.tokens)
    return text if graph.corrupted is None else f"{text} − {''.join(graph.corrupted.tokens)}"


def render(data: dict[str, Any], *, title: str, prompt: str) -> str:
    """Return the page as text."""
    environment = Environment(
        loader=PackageLoader(_PACKAGE, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    kinds = [node[1] for node in data["nodes"]]
    names = ("feature", "error", "token", "target")
    return environment.get_template("page.html.j2").render(
        title=printable(title),
        prompt=printable(prompt),
        facts=", ".join(count(kinds.count(i), name) for i, name in enumerate(names)),
        edges=count(len(data["edges"]["source"]), "edge"),
        data=embedded(data),
        style=_text("style.css"),
        script=Markup("\n").join(_text(f"script/{name}.js") for name in SCRIPTS),
        shades=SHADES,
    )


def embedded(data: Any) -> Markup:
    """Return data as JSON that is safe inside a script element: ASCII, without `<`, `>` and `&`."""
    return Markup(json.dumps(data, allow_nan=False, separators=(",", ":")).translate(_ESCAPES))


def _text(name: str) -> Markup:
    return Markup(files(_PACKAGE).joinpath(name).read_text(encoding="utf-8"))
