"""Tables that commands print."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from pie_jax.cli.output import Output
from pie_jax.intervals import Mean

if TYPE_CHECKING:
    import pyarrow as pa

    from pie_jax.prune.results.tables import PruneResult
    from pie_jax.prune.task_circuits.results import TaskResult


def kl_table(result: PruneResult) -> Table:
    """Return mean KL(clean || circuit) at the last position by method and budget."""
    summary = result.summary()
    budgets = sorted({budget for row in summary.values() for budget in row})
    null = result.null()
    nothing = "" if null is None else f"; nothing kept: {null.mean:.3f}"
    means = "" if null is not None and null.n == 1 else ", mean and 95% interval"
    unseen = result.record.get("config", {}).get("judge_corruptions") == "unseen"
    nothing += "; judged on corruptions that no method saw" if unseen else ""
    table = Table(
        title=f"KL(clean || circuit) at the last position, nats{means}{nothing}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("method")
    for budget in budgets:
        table.add_column(f"K = {budget}", justify="right", min_width=9)
    for method, row in summary.items():
        # The numbers stay whole in 80 columns; a long name takes two lines, broken at a hyphen.
        table.add_row(textwrap.fill(method, 14), *(cell(row.get(budget)) for budget in budgets))
    return table


def task_table(result: TaskResult) -> Table:
    """Return mean KL of every task circuit on seen and unseen pairs, beside single prompts' own."""
    null = [" –" if mean is None else f" {mean.mean:.3f}" for mean in result.null()]
    table = Table(
        title="KL(clean || circuit) at the last position, nats, mean and 95% interval; K unique "
        f"features; nothing kept:{null[0]} seen,{null[1]} unseen; alone: circuits of K for each "
        "seen pair, and the unique features that they hold together",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("method")
    for name in ("K", "KL seen", "KL unseen", "ratio", "unique alone", "KL alone"):
        table.add_column(name, justify="right")
    for row in result.summary():
        table.add_row(
            textwrap.fill(row.method, 14),
            str(row.budget),
            cell(row.seen),
            cell(row.unseen),
            "–" if row.ratio is None else f"{row.ratio:.2f}",
            str(row.union),
            cell(row.prompts),
        )
    return table


def score_table(table: pa.Table) -> Table:
    """Return the mean scores of every group, with what is undefined counted."""
    from pie_jax.evaluate.table import summarise

    summaries = summarise(table)
    scorers = list(dict.fromkeys(one.scorer for one in summaries))
    shown = Table(title="mean score, 95% interval over features", title_justify="left")
    shown.add_column("explanations")
    for scorer in scorers:
        shown.add_column(scorer, justify="right")
    cells = {(one.group, one.scorer): one for one in summaries}
    for group in dict.fromkeys(one.group for one in summaries):
        row = []
        for scorer in scorers:
            score, missing = (
                cells[group, scorer].score,
                sum(n for _, n in cells[group, scorer].undefined),
            )
            mean = None
            if score.value is not None and score.interval is not None:
                mean = Mean(score.value, *score.interval, score.n)
            row.append(cell(mean) + (f"\n{missing} undefined" if missing else ""))
        shown.add_row(group, *row)
    return shown


def cell(mean: Mean | None) -> str:
    """Return a mean above its interval, which one value has none of, or a dash for no mean."""
    if mean is None:
        return "–"
    return f"{mean.mean:.3f}" + (f"\n{mean.low:.2f}–{mean.high:.2f}" if mean.n > 1 else "")


def report_skips(result: PruneResult | TaskResult, output: Output) -> None:
    """Say how many pairs were left out and why."""
    skipped = result.record.get("skipped", {})
    if skipped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.items())
        output.say(f"skipped pairs: {reasons} (listed in run.json)")
