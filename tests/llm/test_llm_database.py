"""A file of LLM answers that another process holds: waited for, and said whose it is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from refusals import refuses

from pie_jax.errors import PieError
from pie_jax.llm import LLMStore
from pie_jax.llm.store import database

HOLD = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Callable[[float], subprocess.Popen]]:
    """Return what starts a process that locks the file for some seconds."""
    started: list[subprocess.Popen] = []

    def start(seconds: float) -> subprocess.Popen:
        command = [sys.executable, "-c", HOLD, str(tmp_path / "llm.sqlite"), str(seconds)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        assert started[-1].stdout is not None
        assert started[-1].stdout.readline() == b"held\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_who_holds_the_file_is_said(
    hold: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_QUIET_SECONDS", 0.05)
    monkeypatch.setattr(database, "_BUSY_SECONDS", 0.1)
    path = tmp_path / "llm.sqlite"
    pid = str(hold(60).pid)

    def opened() -> None:
        with pytest.warns(RuntimeWarning, match=rf"llm.sqlite: locked by process .*{pid}.*waiting"):
            LLMStore(path)

    refuses(opened, path, "locked by process", pid, kind=PieError)


def test_a_lock_that_ends_is_waited_out(
    hold: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_QUIET_SECONDS", 0.05)
    hold(0.5)
    with pytest.warns(RuntimeWarning, match="waiting up to 120 s"):
        store = LLMStore(tmp_path / "llm.sqlite")
    with store:
        assert store.ledger.summary() == []
