"""`pie-jax compare`: methods of one or several runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pie_jax.cli.in_parts import InParts
from pie_jax.terminal import console


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Results folders of `pie-jax prune`.")],
    baseline: Annotated[
        str, typer.Option(help="The method that the others are compared with, prompt by prompt.")
    ] = "fap-synergy",
    plot: Annotated[Path | None, typer.Option(help="SVG file of KL against K to write.")] = None,
) -> None:
    """Compare the methods of finished runs.

    Examples:

    \b
    pie-jax compare results
    pie-jax compare seed-0 seed-1 --baseline fap --plot kl.svg
    """
    from pie_jax.prune.results.compare import chart, load_runs, run_tables, stability_table

    results = load_runs(runs, baseline)
    for title, table in run_tables(results, baseline):
        console.print(title)
        console.print(InParts(table))
    if len(results) > 1:
        title, table = stability_table(results)
        console.print(title)
        console.print(InParts(table))
    if plot is not None:
        plot.write_text(str(chart(results)), encoding="utf-8")
        console.print(f"plot: {plot}")
