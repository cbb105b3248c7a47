"""What `pie-jax graph` prints: the graph's size and scores, its strongest inputs, its check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.markup import escape
from rich.table import Table

from pie_jax.cli.output import Output

if TYPE_CHECKING:
    from pie_jax.graph.listing import Node
    from pie_jax.graph.run.result import GraphResult

# Promoted tokens of an input that are shown.
_TOKENS = 4


def show(result: GraphResult, shown_as: str) -> None:
    """Print what a graph holds, what acts on its first target, and where its page is."""
    output = Output(shown_as)
    _size(result, output)
    _inputs(result, output)
    if result.validation is not None:
        _check(result, output)
    output.say(f"page: {result.page}")
    output.finish()


def _size(result: GraphResult, output: Output) -> None:
    from pie_jax.charts.text import count, number
    from pie_jax.graph.listing import kept_edges

    kinds = [node.kind for node in result.nodes()]
    sizes = {kind: kinds.count(kind) for kind in ("feature", "error", "token", "target")}
    edges = len(kept_edges(result.graph, result.pruned).source)
    found = ", ".join(count(size, kind) for kind, size in sizes.items())
    facts = [
        ("nodes", f"{len(kinds)}: {found}"),
        ("edges", str(edges)),
        ("replacement score", number(result.replacement)),
        ("completeness score", number(result.completeness)),
    ]
    if result.kl is not None:
        facts.append(("KL(clean || circuit), nats", number(result.kl)))
    if result.inactive:
        facts.append(("not active in the clean prompt", count(result.inactive, "kept occurrence")))
    row = {
        "nodes": len(kinds), **{f"{kind}s": size for kind, size in sizes.items()}, "edges": edges,
        "replacement": result.replacement, "completeness": result.completeness,
        "kl": result.kl, "inactive": result.inactive,
        "page": None if result.page is None else str(result.page),
    }  # fmt: skip
    output.show("graph", [row], _table(("graph", ""), facts, "left"))


def _inputs(result: GraphResult, output: Output) -> None:
    from pie_jax.charts.text import printable, visible

    first = result.graph.targets[0]
    label = printable(first.label) if first.token is None else visible(first.label)
    cells, rows = [], []
    for one in result.inputs():
        name, meaning = _named(one.node, result), _meaning(one.node, result)
        cells.append((name, f"{one.weight:+.3f}", f"{one.share:.1%}", meaning))
        share = None if one.share != one.share else one.share
        rows.append(
            {"id": one.node.id, "input": name, "effect": one.weight, "share": share,
             "meaning": meaning}
        )  # fmt: skip
    names = (f"strongest inputs of {label}", "effect", "share", "what it is")
    output.show("inputs", rows, _table(names, cells, "right"))


def _check(result: GraphResult, output: Output) -> None:
    from pie_jax.charts.text import count, number

    assert result.validation is not None
    found = result.validation.correlations()
    rows: list[dict[str, Any]] = [
        {"frozen": name, "pearson": one.pearson, "spearman": one.spearman}
        for name, one in found.items()
    ]
    cells = [(name, number(one.pearson), number(one.spearman)) for name, one in found.items()]
    removed = count(len(result.validation.node), "feature")
    names = (f"{removed} removed one by one; frozen", "Pearson", "Spearman")
    output.show("validation", rows, _table(names, cells, "right"))


def _named(node: Node, result: GraphResult) -> str:
    from pie_jax.charts.text import visible

    token = visible(result.graph.tokens[node.position])
    where = f"{node.position} {token}"
    if node.key is not None:
        return f"feature {node.layer}:{node.feature} at {where}"
    return f"{node.kind} {where}" if node.layer is None else f"error {node.layer} at {where}"


def _meaning(node: Node, result: GraphResult) -> str:
    from pie_jax.charts.text import printable, shorten, visible
    from pie_jax.features.records import FeatureKey

    if node.key is None:
        return ""
    if label := result.texts.labels.get(node.key):
        return shorten(printable(label), 40)
    tokens = result.promoted[FeatureKey(*node.key)][0].promoted[:_TOKENS]
    return "promotes " + " ".join(visible(token.text) for token in tokens)


def _table(names: tuple[str, ...], rows: Sequence[tuple[str, ...]], justify: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, highlight=False)
    for i, name in enumerate(names):
        left = i in (0, 3) or justify == "left"
        table.add_column(escape(name), justify="left" if left else "right")
    for row in rows:
        table.add_row(*map(escape, row))
    return table
