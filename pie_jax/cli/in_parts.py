"""Tables that are wider than the terminal, in parts below each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace

from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

# Wider than any table: what a table would take if there were room.
_UNBOUNDED = 1_000_000


@dataclass(frozen=True)
class InParts:
    """A table of which no column is cut off; each part repeats the `keep` first columns.

    The title goes before it, as wide as the terminal and not as the table.
    """

    table: Table
    keep: int = 1

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        if self.table.title is not None:
            yield Text(str(self.table.title), "table.title")
        roomy = options.update(width=_UNBOUNDED)

        def fits(columns: Sequence[Column]) -> bool:
            part = self._part(columns)
            return Measurement.get(console, roomy, part).maximum <= options.max_width

        head, rest = self.table.columns[: self.keep], self.table.columns[self.keep :]
        while True:
            count = 1
            while count < len(rest) and fits([*head, *rest[: count + 1]]):
                count += 1
            yield self._part([*head, *rest[:count]])
            rest = rest[count:]
            if not rest:
                return

    def _part(self, columns: Sequence[Column]) -> Table:
        part = copy(self.table)
        # A word that is wider than the terminal goes on in the next line.
        part.columns = [
            replace(column, _index=index, overflow="fold") for index, column in enumerate(columns)
        ]
        part.title = None
        return part
