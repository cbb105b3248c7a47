"""What the commands show on narrow terminals, in ASCII, and when the system refuses something."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import sys
from types import SimpleNamespace

import pytest
from cli_helpers import pie
from rich.console import Console
from rich.table import Table

from pie_jax.cli import app, output
from pie_jax.cli.in_parts import InParts
from pie_jax.cli.output import Output, as_csv, as_json, as_markdown
from pie_jax.cli.tables import cell, kl_table
from pie_jax.errors import InputError
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
    table = _table([5, 10])
    title, table.title = f"a title that is wider than the table: {'word ' * 9}end", None
    plain = _shown(table, 100)
    assert _shown(InParts(table), 100) == plain
    table.title = title
    assert _shown(InParts(table), 100) == f"{title}\n{plain}"
    assert "method" in _shown(InParts(_table([])), 80)


@pytest.mark.parametrize("width", [30, 60, 80])
def test_every_table_of_a_command_is_whole(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    budgets = tuple(10 * 2**power for power in range(6))
    mean = Mean(0.123, 0.111, 0.456, 3)
    row = dict.fromkeys(budgets, mean)
    result = SimpleNamespace(
        summary=lambda: {"a-very-long-method-name-of-an-extension": row},
        null=lambda: mean,
        record={},
    )
    shown = Console(file=io.StringIO(), width=width)
    monkeypatch.setattr(output, "console", shown)
    Output().show("kl", [], kl_table(result))  # type: ignore[arg-type]
    text = shown.file.getvalue()  # type: ignore[attr-defined]
    assert all(f"K = {budget} " in text.replace("\n", " \n") for budget in budgets)
    assert text.count("0.11–0.46") == len(budgets)
    assert "…" not in text


def test_names_are_no_markup_and_long_ones_are_folded() -> None:
    name = "[/red]runs[bold]" + "x" * 150
    table = Table("run", "method", "K = 320")
    table.add_row(name, ":smile:", "0.123")
    for width in (40, 80):
        shown = Console(file=io.StringIO(), width=width, markup=False, emoji=False)
        shown.print(InParts(table, keep=2))
        text = shown.file.getvalue()  # type: ignore[attr-defined]
        assert text.count("x") == 150
        assert "[/red]" in text
        assert "0.123" in text


def test_scripts_get_undefined_values_as_nothing_and_texts_whole() -> None:
    name = 'a|b,"c"\n</td>\u202e'
    tables = {"kl": [{"method": name, "kl": None, "n": 0}, {"method": "fap", "kl": 0.5, "n": 2}]}
    assert json.loads(as_json(tables)) == tables
    rows = list(csv.DictReader(io.StringIO(as_csv(tables), newline="")))
    assert (rows[0]["method"], rows[0]["kl"], rows[1]["kl"]) == (name, "", "0.5")
    lines = as_markdown(tables).splitlines()
    assert len(lines) == 6
    assert lines[4].replace("\\|", "").count("|") == lines[5].count("|") == 4
    assert "<" not in lines[4].replace("\\<", "")
    assert "\u202e" not in lines[4]
    with pytest.raises(ValueError, match="not JSON compliant"):
        as_json({"kl": [{"kl": float("nan")}]})


class Words:
    """A tokenizer of white space."""

    def encode(self, text: str) -> list[int]:
        """Return as many ids as there are words."""
        return [0] * len(text.split())


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


def test_long_paths_stay_in_one_line_and_control_characters_do_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = f"{'long/' * 40}[/red]:smile:\x1b[2J\u202e"
    Output().say(f"results: {path}\nreport: x")
    said = capsys.readouterr().out
    assert said.splitlines()[0].startswith(f"results: {path[:200]}[/red]:smile:\\x1b")
    assert len(said.splitlines()) == 2

    def failing() -> None:
        raise InputError(path)

    monkeypatch.setattr(app, "app", failing)
    assert pie(monkeypatch) == 2
    said = capsys.readouterr().err
    assert "[/red]:smile:\\x1b[2J\\u202e" in said
    assert said.count("\n") == 1
