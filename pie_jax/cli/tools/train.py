"""`pie-jax train-clt`: train a transcoder, cross-layer or per layer, on a text corpus."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from pie_jax.cli import options as opt
from pie_jax.cli.in_parts import InParts
from pie_jax.cli.output import Output
from pie_jax.errors import InputError
from pie_jax.terminal import console, progress_bar, quiet_orbax, use_compile_cache

if TYPE_CHECKING:
    from pie_jax.transcoders.training.report import Quality


def train_clt(
    corpus: Annotated[list[Path], typer.Option(help="Text or JSONL ({'text': ...}); repeatable.")],
    out: Annotated[Path, typer.Option(help="Folder for the transcoder; resumes if interrupted.")],
    features: Annotated[int, typer.Option(help="Features a layer.")],
    l0: Annotated[
        str | None,
        typer.Option(help="Active features wanted per layer and token: a number, or one a layer."),
    ] = None,
    k: Annotated[
        int | None, typer.Option("--k", help="Active features of a TopK, in place of --l0.")
    ] = None,
    kind: Annotated[
        str, typer.Option(help="cross-layer, or per-layer: features write to their own layer.")
    ] = "cross-layer",
    activation: Annotated[str, typer.Option(help="jumprelu, relu, or topk (per-layer).")] = (
        "jumprelu"
    ),
    skip: Annotated[
        bool, typer.Option("--skip", help="Add an affine skip to each layer (per-layer).")
    ] = False,
    refit: Annotated[
        int, typer.Option(help="Batches to fit the decoders of --kind per-layer to at the end.")
    ] = 0,
    model: opt.Model = "demo",
    steps: Annotated[int, typer.Option(help="Training steps.")] = 1500,
    seed: opt.Seed = 0,
) -> None:
    """Train a transcoder and write it in circuit-tracer's format.

    Examples:

    \b
    pie-jax train-clt --model demo --corpus text.jsonl --features 1024 --l0 13 --out clt
    pie-jax train-clt --corpus text.jsonl --features 1024 --l0 4,8,15,15,15,15 --out clt
    pie-jax train-clt --kind per-layer --skip --activation topk --k 16 \\
        --model demo --corpus text.jsonl --features 1024 --out transcoders
    """
    from pie_jax.models.loader import load_model
    from pie_jax.transcoders.training.run import TrainOptions, train_clt

    use_compile_cache()
    quiet_orbax()
    options = TrainOptions(
        features=features,
        l0=_active(l0, k, activation),
        steps=steps,
        seed=seed,
        kind=kind,
        activation=activation,
        skip=skip,
        refit=refit,
    )
    with progress_bar("train-clt") as progress:
        report = train_clt(
            load_model(model),
            corpus,
            out,
            options,
            progress=lambda step, total, now: progress(step, total, _state(now)),
        )
    console.print(InParts(_quality_table(report.heldout)))
    Output().say(f"transcoder: {out} ({report.steps} steps, {report.seconds:.0f} s)")


def _active(l0: str | None, k: int | None, activation: str) -> float | tuple[float, ...]:
    """Return how many features are to be active: --k of a TopK, --l0 of others, which may be one
    number a layer."""
    wanted, other = ("--k", "--l0") if activation == "topk" else ("--l0", "--k")
    given = {"--l0": l0, "--k": k}
    value = given[wanted]
    if value is None or given[other] is not None:
        raise InputError(f"--activation {activation} needs {wanted}, and no {other}.")
    try:
        wanted_l0 = tuple(float(part) for part in str(value).split(","))
    except ValueError as error:
        raise InputError(f"{wanted}: `{value}` is no number, nor numbers like 4,8,15.") from error
    return wanted_l0 if len(wanted_l0) > 1 else wanted_l0[0]


def _state(now: dict[str, float]) -> str:
    loss, rate = 1 - now["explained_variance"], now["tokens_per_second"]
    return f"steps, loss {loss:.3f}, L0 {now['l0']:.1f}, {rate:,.0f} tokens/s"


def _quality_table(quality: Quality) -> Table:
    """Return a trained transcoder's figures on held-out tokens, a row per layer."""
    table = Table(
        title=f"on {quality.tokens:,} held-out tokens", title_justify="left", box=box.SIMPLE_HEAD
    )
    for name in ("layer", "explained variance", "L0", "dead features"):
        table.add_column(name, justify="right")
    rows = zip(quality.explained_variance, quality.l0, quality.dead_share, strict=True)
    for layer, (variance, l0, dead) in enumerate(rows):
        table.add_row(str(layer), f"{variance:.3f}", f"{l0:.1f}", f"{dead:.1%}")
    return table
