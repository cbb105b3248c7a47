"""A JSON Lines file that grows by one finished row at a time and survives a kill."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Any

from pie_jax.errors import InputError
from pie_jax.files.atomic import replacing, writing

Row = dict[str, Any]


class Journal:
    """Rows by their identity: the last one of each counts.

    A line that was cut off by a kill is dropped; any other line that is no row of this kind is an
    `InputError` naming it.
    """

    def __init__(self, path: Path, identity: Callable[[Row], Hashable]):
        self.path, self.identity = path, identity
        self.rows: dict[Hashable, Row] = {}
        whole = 0
        data = path.read_bytes() if path.exists() else b""
        for number, line in enumerate(data.splitlines(keepends=True), start=1):
            if line.endswith(b"\n"):
                whole += len(line)
                self._enter(self._parsed(line, number))
        if whole < len(data):
            os.truncate(path, whole)

    def _parsed(self, line: bytes, number: int) -> Row:
        try:
            row = json.loads(line)
            self.identity(row)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self.path}, line {number}: not a row of this file; move the file away."
            ) from error
        return row

    def _enter(self, row: Row) -> None:
        self.rows[self.identity(row)] = row

    def append(self, row: Row) -> None:
        """Write a row to the disk before returning."""
        line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        with writing(self.path), self.path.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._enter(row)

    def rewrite(self, rows: Iterable[Row]) -> None:
        """Replace the file by these rows, whole or not at all."""
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        with replacing(self.path) as temporary:
            temporary.write_bytes(text.encode())
