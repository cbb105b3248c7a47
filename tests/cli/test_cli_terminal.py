"""What the commands show on narrow terminals, in ASCII, and when the system refuses something."""

from __future__ import annotations

import errno
import io
import os
import sys

import pytest
from cli_helpers import pie
from rich.console import Console
from rich.table import Table

from pie_jax.cli import app
from pie_jax.cli.in_parts import InParts
from pie_jax.cli.tables import cell
from pie_jax.intervals import Mean


def _table(budgets: list[int]) -> Table:
    table = Table(title="the title", pad_edge=False)
    table.add_column("method")
    for budget in budgets:
        table.add_column(f"K = {budget}", justify="right", min_width=9)
    for number, name in enumerate(("fap", "fap-\nsynergy")):
        means = (Mean(budget + number, 0.0, 12345.0, 3) for budget in budgets)
        table.add_row(name, *map(cell, means))
    return table


def _shown(table: object, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [40, 80, 100, 400])
def test_no_column_is_cut_off(width: int) -> None:
    budgets = [10 * 2**power for power in range(9)]
    text = _shown(InParts(_table(budgets)), width)
    for budget in budgets:
        for words in (f"K = {budget}", f"{budget}.000", f"{budget + 1}.000"):
            assert words in text
    parts = text.count("method")
    assert text.count("synergy") == text.count("fap-") == parts
    assert text.count("the title") == 1
    assert (parts == 1) == (width == 400)


def test_a_table_that_fits_is_as_it_was() -> None:
    assert _shown(InParts(_table([5, 10])), 80) == _shown(_table([5, 10]), 80)
    assert "method" in _shown(InParts(_table([])), 80)


@pytest.mark.parametrize("arguments", [["--help"], ["prune", "--help"], ["run", "--help"]])
def test_help_in_ascii(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert pie(monkeypatch, *arguments) == 0
    sys.stdout.flush()
    assert b"Usage" in raw.getvalue()


def test_characters_that_the_output_lacks_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    monkeypatch.setattr(app, "app", lambda: app.plan.console.print("undefined: –"))
    app.main()
    sys.stdout.flush()
    assert raw.getvalue() == b"undefined: ?\n"


def test_what_the_system_refuses_is_no_defect(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/run.json")

    monkeypatch.setattr(app, "app", full)
    assert pie(monkeypatch) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "/data/run.json: No space left on device" in said
    assert "defect" not in said
