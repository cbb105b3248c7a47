"""A run's folder for several processes: process 0 reads and writes it, all see the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from pie_jax.devices.processes import from_first, require_same
from pie_jax.files.atomic import writing
from pie_jax.prune.results.columns import Columns
from pie_jax.prune.results.folder_lock import LOCK, locked
from pie_jax.prune.results.resumable_folder import RunFolder, make_folder


class SharedFolder:
    """A `RunFolder` of process 0, whose answers and errors reach every process.

    Which parts are finished is thus one decision, wherever the folder lies. With one process
    it is that process's `RunFolder`. Raises `InputError` where the processes have other configs,
    `PieError` where another run writes there now. `close` lets others in.
    """

    def __init__(
        self, path: Path, config: dict[str, Any], load: Callable[[Path], Any] | None = None
    ):
        require_same(json.dumps(config, sort_keys=True), "the options, weights or pairs")
        self._lock = ExitStack()

        def opened() -> RunFolder:
            make_folder(path)
            with writing(path / LOCK):
                self._lock.enter_context(locked(path))
            try:
                return RunFolder(path, config, load)
            except BaseException:
                self._lock.close()
                raise

        self._folder = from_first(opened)

    def close(self) -> None:
        """Let other runs into the folder."""
        self._lock.close()

    def finished(self) -> Any:
        """Return the results of a run that is already complete, else None."""
        return from_first(self._folder.finished)

    def begin(self, record: dict[str, Any]) -> None:
        """Write the record of a run that is under way."""
        from_first(lambda: self._folder.begin(record))

    def part(self, index: int) -> dict[str, Columns] | None:
        """Return the columns of a finished part, or None."""
        return from_first(lambda: self._folder.part(index))

    def save_part(self, index: int, tables: dict[str, Columns]) -> None:
        """Write a finished part, whole or not at all."""
        from_first(lambda: self._folder.save_part(index, tables))

    def complete(self, tables: dict[str, pa.Table], record: dict[str, Any]) -> None:
        """Write the tables and the record, then drop the parts."""
        from_first(lambda: self._folder.complete(tables, record))


@contextmanager
def shared_folder(
    out: str | Path | None, config: dict[str, Any], load: Callable[[Path], Any] | None = None
) -> Iterator[SharedFolder | None]:
    """Yield the folder of a run, locked against other writers, or None for a run without one."""
    folder = None if out is None else SharedFolder(Path(out), config, load)
    try:
        yield folder
    finally:
        if folder is not None:
            folder.close()
