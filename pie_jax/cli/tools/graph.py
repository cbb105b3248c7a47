"""`pie-jax graph`: which features, errors and tokens make a prompt's next token."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from pie_jax.cli import options as opt
from pie_jax.terminal import console, use_compile_cache

if TYPE_CHECKING:
    from pie_jax.graph.listing import Node
    from pie_jax.graph.run.result import GraphResult

# Promoted tokens of an input that are shown, and features removed in runs of the demo.
_TOKENS, _VALIDATE = 4, 40


def graph(
    run: Annotated[
        Path | None,
        typer.Argument(help="Results folder of `pie-jax prune` or `run`; or give --prompt."),
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="The text; BOS is put in front.")] = None,
    target: Annotated[
        str | None, typer.Option(help="With --prompt: a token that might follow.")
    ] = None,
    distractor: Annotated[
        str | None, typer.Option(help="With --prompt: the token it is compared with.")
    ] = None,
    pair: Annotated[
        int | None, typer.Option(help="With RUN: the pair, from 0; default: the first.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="With RUN: whose circuit; default: the first method's.")
    ] = None,
    budget: Annotated[
        int | None, typer.Option(help="With RUN: at which budget; default: the middle one.")
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option(help="With RUN: its pairs; default: pairs.jsonl in the folder.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A folder or hub id; default: demo, or the run's own.")
    ] = None,
    transcoder: Annotated[
        str | None, typer.Option(help="A folder or hub id; default: demo, or the run's own.")
    ] = None,
    dtype: opt.Dtype = "float32",
    features: Annotated[
        int, typer.Option(help="With --prompt: at most so many features, by influence.")
    ] = 1000,
    nodes: Annotated[
        float, typer.Option(help="Share of influence that kept nodes hold; a circuit stays whole.")
    ] = 0.8,
    edges: Annotated[float, typer.Option(help="Share that edges between them hold.")] = 0.98,
    validate: Annotated[
        int | None,
        typer.Option(
            help="Remove so many features one by one in runs of the model, and compare; default: "
            f"{_VALIDATE} on the demo, else 0."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write; default: graph-results, or graph in the run's folder."),
    ] = None,
) -> None:
    """Draw the attribution graph of a prompt, or of a run's circuit, as a page for a browser.

    Examples:

    \b
    pie-jax graph --prompt "Then, Peter and Joe had a long talk. Afterwards Joe said to" \\
        --target " Peter" --distractor " Joe"
    pie-jax graph pie-results --pair 3 --method auto --budget 20
    """
    import pie_jax
    from pie_jax.errors import InputError

    if (run is None) == (prompt is None):
        raise InputError("graph: give either the folder of a run or --prompt, one of them.")
    if prompt is not None:
        _refuse("--prompt", pair=pair, method=method, budget=budget, pairs=pairs)
        use_compile_cache()
        where = (model or "demo", transcoder or "demo")
        weights = pie_jax.load_model(where[0], dtype), pie_jax.load_transcoder(where[1])
        result = pie_jax.graph_prompt(
            *weights, prompt, target=target, distractor=distractor, features=features,
            validate=_checked(validate, where[0]), out=out or Path("graph-results"),
            nodes=nodes, edges=edges,
        )  # fmt: skip
    else:
        assert run is not None
        _refuse("a run's folder", target=target, distractor=distractor)
        use_compile_cache()
        names = pie_jax.load_result(run).record["config"]
        result = pie_jax.graph_run(
            run, pair=pair, method=method, budget=budget, pairs=pairs, model=model,
            transcoder=transcoder, validate=_checked(validate, names["model"]), out=out,
            nodes=nodes, edges=edges,
        )  # fmt: skip
    show(result)


def _refuse(given: str, **others: object) -> None:
    from pie_jax.errors import InputError

    for name, value in others.items():
        if value is not None:
            raise InputError(f"--{name}: cannot be combined with {given}; leave one of them out.")


def _checked(validate: int | None, model: str) -> int:
    return (_VALIDATE if model == "demo" else 0) if validate is None else validate


def show(result: GraphResult) -> None:
    """Print what a graph holds, what acts on its first target, and where its page is."""
    from pie_jax.charts.text import count, number, printable, visible
    from pie_jax.graph.listing import kept_edges

    kinds = [node.kind for node in result.nodes()]
    found = (count(kinds.count(kind), kind) for kind in ("feature", "error", "token", "target"))
    facts = [
        ("nodes", f"{len(kinds)}: {', '.join(found)}"),
        ("edges", str(len(kept_edges(result.graph, result.pruned).source))),
        ("replacement score", number(result.replacement)),
        ("completeness score", number(result.completeness)),
    ]
    if result.kl is not None:
        facts.append(("KL(clean || circuit), nats", number(result.kl)))
    if result.inactive:
        facts.append(("not active in the clean prompt", count(result.inactive, "kept occurrence")))
    _print(("graph", ""), facts, "left")
    inputs = [
        (
            _named(one.node, result),
            f"{one.weight:+.3f}",
            f"{one.share:.1%}",
            _meaning(one.node, result),
        )
        for one in result.inputs()
    ]
    first = result.graph.targets[0]
    label = printable(first.label) if first.token is None else visible(first.label)
    _print((f"strongest inputs of {label}", "effect", "share", "what it is"), inputs, "right")
    if result.validation is not None:
        measured = len(result.validation.node)
        rows = [
            (name, number(one.pearson), number(one.spearman))
            for name, one in result.validation.correlations().items()
        ]
        title = f"{count(measured, 'feature')} removed one by one; frozen"
        _print((title, "Pearson", "Spearman"), rows, "right")
    console.print(f"page: {result.page}", markup=False, highlight=False, soft_wrap=True)


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


def _print(names: tuple[str, ...], rows: Sequence[tuple[str, ...]], justify: str) -> None:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for i, name in enumerate(names):
        left = i in (0, 3) or justify == "left"
        table.add_column(escape(name), justify="left" if left else "right")
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table, highlight=False)
