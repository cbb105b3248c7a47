"""`pie-jax graph`: which features, errors and tokens make a prompt's next token."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pie_jax.cli import options as opt
from pie_jax.cli.output import Format
from pie_jax.terminal import use_compile_cache

if TYPE_CHECKING:
    from pie_jax.graph.run.result import GraphResult

# Features removed in runs of the demo.
_VALIDATE = 40


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
    corrupted: Annotated[
        str | None,
        typer.Option(
            help="With --prompt: a prompt of as many tokens; nodes are what changes from it."
        ),
    ] = None,
    changes: Annotated[
        bool,
        typer.Option("--changes", help="With RUN: nodes are changes from the corrupted prompt."),
    ] = False,
    task: Annotated[
        bool,
        typer.Option("--task", help="With RUN: one graph of the task's features over its prompts."),
    ] = False,
    versus: Annotated[
        str | None,
        typer.Option(
            help="What to take away: with --prompt another prompt, with RUN --task another run."
        ),
    ] = None,
    merge: Annotated[
        str | None,
        typer.Option(help="With --task or --versus: positions by role, token or position."),
    ] = None,
    prompts: Annotated[
        int | None, typer.Option(help="With --task: so many of the run's prompts; default: 64.")
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
        int | None,
        typer.Option(
            help="With --prompt: at most so many features, by influence; default: 1000. With "
            "--task and a run of single prompts: those kept in most of them; default: 50."
        ),
    ] = None,
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
        typer.Option(help="Folder to write; default: graph-results, or a folder in the run's."),
    ] = None,
    shown_as: Format = "table",
) -> None:
    """Draw the attribution graph of a prompt, or of a run's circuit, as a page for a browser.

    Examples:

    \b
    pie-jax graph --prompt "Then, Peter and Joe had a long talk. Afterwards Joe said to" \\
        --target " Peter" --distractor " Joe"
    pie-jax graph pie-results --pair 3 --method auto --budget 20 --changes
    pie-jax graph pie-results --task
    """
    import pie_jax
    from pie_jax.cli.tools.graph_tables import show
    from pie_jax.errors import InputError

    if (run is None) == (prompt is None):
        raise InputError("graph: give either the folder of a run or --prompt, one of them.")
    options: dict[str, Any] = {"nodes": nodes, "edges": edges}
    if features is not None:
        options["features"] = features
    if merge is not None:
        options["merged"] = merge
    if task or versus is not None:
        _refuse("--task or --versus", validate=validate)
    else:
        _require("--task or --versus", merge=merge)
    if prompt is not None:
        _refuse(
            "--prompt", pair=pair, method=method, budget=budget, pairs=pairs, task=task or None,
            changes=changes or None, prompts=prompts,
        )  # fmt: skip
        use_compile_cache()
        where = (model or "demo", transcoder or "demo")
        weights = pie_jax.load_model(where[0], dtype), pie_jax.load_transcoder(where[1])
        options |= {"target": target, "distractor": distractor, "out": out or Path("graph-results")}
        if versus is not None:
            _refuse("--versus", corrupted=corrupted)
            result = pie_jax.prompt_difference(*weights, prompt, versus, **options)
        else:
            result = pie_jax.graph_prompt(
                *weights, prompt, corrupted=corrupted, validate=_checked(validate, where[0]),
                **options,
            )  # fmt: skip
    else:
        assert run is not None
        _refuse("a run's folder", target=target, distractor=distractor, corrupted=corrupted)
        use_compile_cache()
        options |= {
            "method": method, "budget": budget, "changes": changes, "pairs": pairs,
            "model": model, "transcoder": transcoder, "out": out,
        }  # fmt: skip
        if task:
            _refuse("--task", pair=pair)
            result = _of_task(run, versus, prompts, options)
        else:
            _require("--task", versus=versus, prompts=prompts, features=features)
            names = pie_jax.load_result(run).record["config"]
            result = pie_jax.graph_run(
                run, pair=pair, validate=_checked(validate, names["model"]), **options
            )
    show(result, shown_as)


def _of_task(
    run: Path, versus: str | None, prompts: int | None, options: dict[str, Any]
) -> GraphResult:
    import pie_jax

    if prompts is not None:
        options["prompts"] = prompts
    if versus is not None:
        return pie_jax.task_difference(run, versus, **options)
    return pie_jax.task_graph(run, **options)


def _refuse(given: str, **others: object) -> None:
    from pie_jax.errors import InputError

    for name, value in others.items():
        if value is not None:
            raise InputError(f"--{name}: cannot be combined with {given}; leave one of them out.")


def _require(missing: str, **others: object) -> None:
    from pie_jax.errors import InputError

    for name, value in others.items():
        if value is not None:
            raise InputError(f"--{name}: needs {missing} here; add it, or leave --{name} out.")


def _checked(validate: int | None, model: str) -> int:
    return (_VALIDATE if model == "demo" else 0) if validate is None else validate
