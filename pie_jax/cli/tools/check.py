"""`pie-jax check`: whether a transcoder fits a model, at the hooks that its files name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from pie_jax.cli import options as opt
from pie_jax.cli.in_parts import InParts
from pie_jax.terminal import console, progress_bar, use_compile_cache

if TYPE_CHECKING:
    from pie_jax.check.run import CheckReport


def check(
    corpus: Annotated[list[Path], typer.Option(help="Text or JSONL ({'text': ...}); repeatable.")],
    model: opt.Model = "demo",
    transcoder: opt.Transcoder = "demo",
    dtype: opt.Dtype = "float32",
    tokens: Annotated[int, typer.Option(help="Tokens to measure on.")] = 4096,
    window: Annotated[int, typer.Option(help="Tokens of a window, BOS counted.")] = 128,
) -> None:
    """Measure how well a transcoder explains a model's MLPs; exit code 1 where it does not.

    The same is measured at the neighbouring hooks and with other layers, so that a wrong hook, a
    wrong order of layers or a wrong model is named.

    Examples:

    \b
    pie-jax check --model google/gemma-2-2b --transcoder mntss/gemma-scope-transcoders \\
        --corpus text.jsonl
    """
    import pie_jax

    use_compile_cache()
    with progress_bar("check") as progress:
        report = pie_jax.check_transcoder(
            pie_jax.load_model(model, dtype),
            pie_jax.load_transcoder(transcoder, encoders_on_disk=True),
            corpus,
            tokens=tokens,
            window=window,
            progress=progress,
        )
    _show(report)
    if report.mistakes:
        raise typer.Exit(1)


def _show(report: CheckReport) -> None:
    from pie_jax.check.verdict import hooks

    named = report.named
    layers = Table(
        title=f"{hooks(named)} on {named.tokens:,} tokens, BOS left out",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for name in ("layer", "FVU", "L0", "fired on none"):
        layers.add_column(name, justify="right")
    rows = zip(named.fvu, named.l0, report.silent, strict=True)
    for layer, (fvu, l0, silent) in enumerate(rows):
        layers.add_row(str(layer), f"{fvu:.3f}", f"{l0:.1f}", f"{silent:.1%}")
    console.print(InParts(layers))
    others = Table(
        title=f"medians over layers on {report.near.tokens:,} tokens",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    others.add_column("hooks")
    others.add_column("FVU", justify="right")
    others.add_column("L0", justify="right")
    for index, one in enumerate((report.near, *report.neighbours)):
        l0 = sorted(one.l0)[len(one.l0) // 2]
        name = hooks(one) + (" (named)" if index == 0 else "")
        others.add_row(name, f"{one.typical_fvu:.3f}", f"{l0:.1f}")
    console.print(InParts(others))
    first = Table(
        title="first positions beside later ones, the layer that differs most",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for name in ("position", "norm", "L0"):
        first.add_column(name, justify="right")
    for row in report.first:
        first.add_row(str(row.position), _times(row.norm), _times(row.l0))
    console.print(InParts(first))
    result = report.replaced
    console.print(
        f"all MLPs replaced, {result.tokens:,} tokens: KL {result.kl:.3f} nats, same likeliest "
        f"token {result.top1:.1%}",
        highlight=False,
    )
    for sentence in report.mistakes or ("no mistake found.",):
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)


def _times(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}x"
