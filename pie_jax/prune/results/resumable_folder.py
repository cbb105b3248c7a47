"""A run's folder: its record, finished batches that survive a kill, and the final tables."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pie_jax.errors import InputError, PieError
from pie_jax.files.atomic import replacing
from pie_jax.prune.options import PruneOptions
from pie_jax.prune.results.columns import Columns
from pie_jax.prune.results.tables import TABLES, PruneResult

_RECORD = "run.json"
_PARTS = "parts"
# Options that runs of earlier versions do not record.
_DEFAULTS = {"min_tokens": PruneOptions().min_tokens}
# What a run and its later stages write. `parts` without a record is what an early kill leaves.
WRITTEN = (
    *(f"{name}.parquet" for name in (*TABLES, "task", "task_behaviour")),
    *(f"{name}.parquet" for name in ("examples", "promoted", "evaluation")),
    *(f"{name}.jsonl" for name in ("pairs", "sample", "explanations", "evaluation")),
    *("examples.json", "stages.json", "llm.sqlite", "report.html", "graph/graph.html"),
)


class RunFolder:
    """Where a run writes. Raises `InputError` where it cannot, or where another run lives.

    A folder of an earlier run with the same `config` goes on from its finished parts; `load` reads
    the results of a complete one.
    """

    def __init__(
        self, path: Path, config: dict[str, Any], load: Callable[[Path], Any] | None = None
    ):
        self.path, self._config, self._load = path, config, load or load_result
        self._parts = path / _PARTS
        make_folder(path)
        self._probe()
        self._refuse_other()

    def _probe(self) -> None:
        try:
            probe = self.path / ".write-test"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def _refuse_other(self) -> None:
        path = self.path / _RECORD
        if not path.exists():
            # What else lies there, such as a log, is left alone.
            taken = [name for name in WRITTEN if (self.path / name).exists()]
            if taken:
                raise InputError(
                    f"--out {self.path}: holds {taken[0]} of something else, which a run would "
                    "overwrite; name another folder."
                )
            return
        try:
            found = dict(json.loads(path.read_text(encoding="utf-8"))["config"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not a run's record; name another folder.") from error
        # Options that are newer than the folder were what they are by default.
        found, own = {**_DEFAULTS, **found}, {**_DEFAULTS, **self._config}
        changed = sorted(key for key in {*found, *own} if found.get(key) != own.get(key))
        if changed:
            raise InputError(
                f"--out {self.path}: holds a run with another config ({', '.join(changed)} "
                "changed); name another folder, or repeat the earlier command to resume it."
            )

    def finished(self) -> Any:
        """Return the results of a run that is already complete, else None."""
        path = self.path / _RECORD
        if not path.exists():
            return None
        record = json.loads(path.read_text(encoding="utf-8"))
        if record.get("status") != "complete":
            return None
        return self._load(self.path)

    def begin(self, record: dict[str, Any]) -> None:
        """Write the record of a run that is under way."""
        self._parts.mkdir(exist_ok=True)
        self._write_json({"status": "running", "config": self._config, **record})

    def part(self, index: int) -> dict[str, Columns] | None:
        """Return the columns of a finished part, such as a batch, or None."""
        path = self._part_path(index)
        if not path.exists():
            return None
        tables: dict[str, Columns] = {}
        with np.load(path) as stored:
            for name in stored.files:
                table, _, column = name.partition("/")
                tables.setdefault(table, {})[column] = stored[name]
        return tables

    def save_part(self, index: int, tables: dict[str, Columns]) -> None:
        """Write a finished part, whole or not at all."""
        flat = {
            f"{t}/{c}": column for t, columns in tables.items() for c, column in columns.items()
        }
        with replacing(self._part_path(index)) as temporary, temporary.open("wb") as file:
            # savez takes the names as keywords; those of columns hold a slash, which it keeps.
            np.savez(file, **flat)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())

    def complete(self, tables: dict[str, pa.Table], record: dict[str, Any]) -> None:
        """Write the tables and the record, then drop the parts."""
        for name, table in tables.items():
            with replacing(self.path / f"{name}.parquet") as temporary:
                pq.write_table(table, temporary, compression="zstd")
        self._write_json({"status": "complete", "config": self._config, **record})
        shutil.rmtree(self._parts)

    def _part_path(self, index: int) -> Path:
        return self._parts / f"batch-{index:06d}.npz"

    def _write_json(self, record: dict[str, Any]) -> None:
        with replacing(self.path / _RECORD) as temporary:
            temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def make_folder(path: Path) -> None:
    """Make a run's folder where it is missing; raises `InputError` where it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> InputError:
    return InputError(f"--out {path}: cannot be written ({error.strerror}); name another folder.")


def load_result(path: str | Path) -> PruneResult:
    """Read a complete results folder.

    Raises `InputError` if it is not a results folder, `PieError` if the run is unfinished.
    """
    tables, record = read_tables(Path(path), TABLES, "prompt")
    return PruneResult(**tables, record=record)


def scope_of(path: str | Path) -> str:
    """Return the scope of a run, "prompt" or "task"; raises `InputError` where there is no run."""
    try:
        record = json.loads((Path(path) / _RECORD).read_text(encoding="utf-8"))
        return str(record["config"].get("scope", "prompt"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a results folder of `pie-jax prune`.") from error


def read_tables(
    folder: Path, names: Sequence[str], scope: str
) -> tuple[dict[str, pa.Table], dict[str, Any]]:
    """Return the tables and the record of a complete run; raises as `load_result` does, and
    `InputError` where the run is of another scope."""
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        found = record["config"].get("scope", "prompt")
        if found != scope:
            raise InputError(
                f"{folder}: holds a run of --scope {found}, but this needs one of --scope {scope}; "
                "name another folder."
            )
        if record["status"] != "complete":
            raise PieError(f"{folder}: the run is not complete; repeat its command to resume it.")
        return {name: pq.read_table(folder / f"{name}.parquet") for name in names}, record
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
        raise InputError(f"{folder}: not a results folder of `pie-jax prune`.") from error
