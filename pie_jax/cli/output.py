"""What a command prints: tables to read, or data for scripts, alone on stdout."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from pie_jax.charts.text import printable
from pie_jax.cli.in_parts import InParts
from pie_jax.terminal import console, errors

Format = Annotated[
    Literal["table", "json", "csv", "markdown"],
    typer.Option(
        "--format", help="Tables to read, or the same for scripts: then stdout holds nothing else."
    ),
]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Output:
    """Prints tables as they come, or collects their rows by name for `finish`."""

    format: str = "table"
    tables: dict[str, list[Row]] = field(default_factory=dict)

    def say(self, text: str) -> None:
        """Print a sentence; it goes to stderr where stdout is for data."""
        where = console if self.format == "table" else errors
        where.print(printable_lines(text), highlight=False, soft_wrap=True)

    def show(self, name: str, rows: Iterable[Row], table: Table, keep: int = 1) -> None:
        """Print a table, of which parts repeat the first `keep` columns, or keep its rows."""
        if self.format == "table":
            console.print(InParts(table, keep=keep))
        else:
            self.tables.setdefault(name, []).extend(rows)

    def finish(self) -> None:
        """Print the rows, if they were asked for."""
        if self.format != "table":
            sys.stdout.write(_WRITERS[self.format](self.tables))
            sys.stdout.flush()


def printable_lines(text: str) -> str:
    """Return text in which all but line ends that a terminal would obey is replaced."""
    return "\n".join(map(printable, text.split("\n")))


def as_json(tables: Mapping[str, Sequence[Row]]) -> str:
    """Return an object of lists of rows; what is undefined is null."""
    return json.dumps(tables, indent=2, allow_nan=False) + "\n"


def as_csv(tables: Mapping[str, Sequence[Row]]) -> str:
    """Return one table whose first column names the table; what is undefined is empty."""
    rows = [{"table": name, **row} for name, part in tables.items() for row in part]
    names = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_markdown(tables: Mapping[str, Sequence[Row]]) -> str:
    """Return a heading and a table for each; what is undefined is empty."""
    return "\n".join(_markdown(name, rows) for name, rows in tables.items())


def _markdown(name: str, rows: Sequence[Row]) -> str:
    names = list(dict.fromkeys(key for row in rows for key in row))
    lines = [names, ["---"] * len(names)]
    lines += [[_cell(row.get(key)) for key in names] for row in rows]
    return f"### {name}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:.6g}" if isinstance(value, float) else printable(str(value))
    for mark in "\\|<>&*_`[]":
        text = text.replace(mark, f"\\{mark}") if isinstance(value, str) else text
    return text


_WRITERS = {"json": as_json, "csv": as_csv, "markdown": as_markdown}
