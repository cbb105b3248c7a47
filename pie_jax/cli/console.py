"""Output of the commands: progress on stderr, tables on stdout."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from pie_jax.files.hashes import cache_folder
from pie_jax.intervals import Mean

if TYPE_CHECKING:
    import pyarrow as pa

    from pie_jax.prune.results.tables import PruneResult
    from pie_jax.prune.task.results import TaskResult

_LOG_SECONDS = 30.0

console = Console()
errors = Console(stderr=True)


def use_compile_cache() -> None:
    """Keep compiled programs between runs, in JAX_COMPILATION_CACHE_DIR or the user's cache."""
    import jax

    if jax.config.values["jax_compilation_cache_dir"] is None and (folder := cache_folder()):
        jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
    # Programs of any size: what is quick to compile is quicker to read.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def quiet_orbax() -> None:
    """Keep orbax's warnings off the terminal: after a kill, half-written checkpoints are usual."""
    from absl import logging

    logging.set_verbosity(logging.ERROR)


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int, str], None]]:
    """Yield a callback (done, total, unit) that draws a bar on stderr, or prints lines to a log."""
    if not errors.is_terminal:
        yield _log_lines(label)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors) as progress:
        task = progress.add_task(label, total=None, unit="")

        def update(done: int, total: int, unit: str) -> None:
            progress.update(task, completed=done, total=total, unit=unit)

        yield update


def _log_lines(label: str) -> Callable[[int, int, str], None]:
    """Return a callback that prints a line when it is first called, every half minute, and last."""
    start = time.monotonic()
    last = -_LOG_SECONDS

    def update(done: int, total: int, unit: str) -> None:
        nonlocal last
        elapsed = time.monotonic() - start
        if done == total or elapsed - last >= _LOG_SECONDS:
            last = elapsed
            errors.print(f"{label}: {done}/{total} {unit}, {elapsed:.0f} s", highlight=False)

    return update


def kl_table(result: PruneResult) -> Table:
    """Return mean KL(clean || circuit) at the last position by method and budget."""
    summary = result.summary()
    budgets = sorted({budget for row in summary.values() for budget in row})
    null = result.null()
    nothing = "" if null is None else f"; nothing kept: {null.mean:.3f}"
    unseen = result.record.get("config", {}).get("judge_corruptions") == "unseen"
    nothing += "; judged on corruptions that no method saw" if unseen else ""
    table = Table(
        title=f"KL(clean || circuit) at the last position, nats, mean and 95% interval{nothing}",
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
    """Return a mean above its interval, or a dash where it is undefined."""
    return "–" if mean is None else f"{mean.mean:.3f}\n{mean.low:.2f}–{mean.high:.2f}"


def report_skips(result: PruneResult | TaskResult) -> None:
    """Say how many pairs were left out and why."""
    skipped = result.record.get("skipped", {})
    if skipped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.items())
        console.print(f"skipped pairs: {reasons} (listed in run.json)")
