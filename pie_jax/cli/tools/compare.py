"""`pie-jax compare`: methods of one or several runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pie_jax.cli.in_parts import InParts
from pie_jax.cli.output import Format, Output
from pie_jax.terminal import console


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Results folders of `pie-jax prune`.")],
    baseline: Annotated[
        str, typer.Option(help="The method that the others are compared with, prompt by prompt.")
    ] = "fap-synergy",
    plot: Annotated[Path | None, typer.Option(help="SVG file of KL against K to write.")] = None,
    shown_as: Format = "table",
) -> None:
    """Compare the methods of finished runs.

    Examples:

    \b
    pie-jax compare results
    pie-jax compare seed-0 seed-1 --baseline fap --plot kl.svg
    """
    from pie_jax.prune.results.compare import (
        chart,
        comparison_rows,
        load_runs,
        run_tables,
        stability_table,
    )

    results, output = load_runs(runs, baseline), Output(shown_as)
    if shown_as == "table":
        for title, table in run_tables(results, baseline):
            output.say(title)
            console.print(InParts(table))
        if len(results) > 1:
            title, table = stability_table(results)
            output.say(title)
            console.print(InParts(table, keep=2))
    else:
        output.tables["comparison"] = list(comparison_rows(results, baseline))
    if plot is not None:
        plot.write_text(str(chart(results)), encoding="utf-8")
        output.say(f"plot: {plot}")
    output.finish()
