"""`pie-jax report`: a results folder as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pie_jax.cli.output import Output
from pie_jax.cli.stages import stage_options as stage
from pie_jax.terminal import use_compile_cache


def report(
    run: Annotated[Path, typer.Argument(help="Results folder of `pie-jax prune` or `run`.")],
    out: Annotated[
        Path | None, typer.Option(help="File to write; default: report.html in the folder.")
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option(help="The run's pairs; default: pairs.jsonl in the folder.")
    ] = None,
    model: stage.MovedModel = None,
    transcoder: stage.MovedTranscoder = None,
) -> None:
    """Write the report of whatever stages a results folder holds.

    Examples:

    \b
    pie-jax report results
    pie-jax report results --pairs pairs.jsonl --out page.html
    """
    from pie_jax.report.stage import report_run

    use_compile_cache()
    page = report_run(run, out, pairs=pairs, model=model, transcoder=transcoder)
    Output().say(f"report: {page}")
