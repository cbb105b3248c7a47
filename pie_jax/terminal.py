"""The terminal: progress on stderr, and what keeps it quiet and fast."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pie_jax.files.hashes import cache_folder

_LOG_SECONDS = 30.0

# Texts of prompts, names and paths are no markup.
console = Console(markup=False, emoji=False)
errors = Console(stderr=True, markup=False, emoji=False)


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
