"""The SQLite file of a run's LLM calls: its tables, and how it is opened."""

from __future__ import annotations

import os
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pie_jax.errors import InputError, PieError
from pie_jax.llm.errors import StoreFailed

# Says in the file's header whose it is ("PIEL"), and which tables it has.
_APPLICATION = 0x5049454C
_VERSION = 1
# Another process's lock is waited for without a word at first, then with one.
_QUIET_SECONDS, _BUSY_SECONDS = 5.0, 120.0

_TABLES = """
CREATE TABLE answers (
    key TEXT PRIMARY KEY, at REAL NOT NULL, base_url TEXT NOT NULL, model TEXT NOT NULL,
    request TEXT NOT NULL, text TEXT NOT NULL, finish_reason TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
    usage_estimated INTEGER NOT NULL, cost REAL, served_model TEXT NOT NULL
);
CREATE TABLE calls (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, client TEXT NOT NULL, label TEXT NOT NULL,
    key TEXT NOT NULL, base_url TEXT NOT NULL, model TEXT NOT NULL,
    status TEXT NOT NULL, http_status INTEGER, detail TEXT NOT NULL DEFAULT '', latency REAL,
    prompt_tokens INTEGER, completion_tokens INTEGER, usage_estimated INTEGER, cost REAL,
    budget_calls INTEGER NOT NULL, budget_tokens INTEGER NOT NULL, budget_cost REAL NOT NULL
);
CREATE TABLE parameters (
    base_url TEXT NOT NULL, model TEXT NOT NULL, name TEXT NOT NULL, level INTEGER NOT NULL,
    note TEXT NOT NULL, PRIMARY KEY (base_url, model, name)
);
CREATE TABLE totals (calls INTEGER NOT NULL, tokens INTEGER NOT NULL, cost REAL NOT NULL);
INSERT INTO totals VALUES (0, 0, 0.0);
CREATE TRIGGER call_begun AFTER INSERT ON calls BEGIN
    UPDATE totals SET calls = calls + NEW.budget_calls, tokens = tokens + NEW.budget_tokens,
        cost = cost + NEW.budget_cost;
END;
CREATE TRIGGER call_ended AFTER UPDATE ON calls BEGIN
    UPDATE totals SET calls = calls + NEW.budget_calls - OLD.budget_calls,
        tokens = tokens + NEW.budget_tokens - OLD.budget_tokens,
        cost = cost + NEW.budget_cost - OLD.budget_cost;
END;
"""


class Database:
    """A connection to the file; several processes may have one at once.

    Raises `InputError` where the file is no such database or of another version.
    """

    def __init__(self, path: str | Path):
        self.path = str(path)
        try:
            self._connection = sqlite3.connect(
                self.path, timeout=_QUIET_SECONDS, isolation_level=None
            )
        except sqlite3.Error as error:
            raise InputError(f"{path}: cannot be opened ({error}); name another file.") from None
        try:
            self._set_up_patiently()
        except sqlite3.Error as error:
            self._connection.close()
            if _is_busy(error):
                raise PieError(
                    f"{path}: locked{_by(self.path)} for {_BUSY_SECONDS:g} s; repeat the command "
                    "when that is done."
                ) from None
            raise InputError(
                f"{path}: no file of LLM answers ({error}); name another file."
            ) from None
        except BaseException:
            self._connection.close()
            raise

    def _set_up_patiently(self) -> None:
        try:
            self._set_up()
        except sqlite3.Error as error:
            if not _is_busy(error):
                raise
            warnings.warn(
                f"{self.path}: locked{_by(self.path)}; waiting up to {_BUSY_SECONDS:g} s.",
                RuntimeWarning,
                stacklevel=4,
            )
            self._connection.execute(f"PRAGMA busy_timeout = {round(1000 * _BUSY_SECONDS)}")
            self._set_up()
        self._connection.execute(f"PRAGMA busy_timeout = {round(1000 * _BUSY_SECONDS)}")

    def _set_up(self) -> None:
        execute = self._connection.execute
        self._refuse_strangers()
        execute("PRAGMA journal_mode = WAL")
        execute("BEGIN IMMEDIATE")
        try:
            if not self._pragma("user_version"):
                for statement in _statements(_TABLES):
                    execute(statement)
                execute(f"PRAGMA application_id = {_APPLICATION}")
                execute(f"PRAGMA user_version = {_VERSION}")
            execute("COMMIT")
        except BaseException:
            execute("ROLLBACK")
            raise

    def _refuse_strangers(self) -> None:
        owner, version = self._pragma("application_id"), self._pragma("user_version")
        has_tables = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if has_tables and owner != _APPLICATION:
            raise InputError(f"{self.path}: another program's database; name another file.")
        if version not in (0, _VERSION):
            raise InputError(
                f"{self.path}: written by another version of pie_jax (tables {version}, here "
                f"{_VERSION}); name another file."
            )

    def _pragma(self, name: str) -> int:
        return self._connection.execute(f"PRAGMA {name}").fetchone()[0]

    @contextmanager
    def transaction(self, *, durable: bool) -> Iterator[sqlite3.Connection]:
        """Yield the connection inside a write transaction; raise `StoreFailed` if it fails.

        What is committed survives the end of the process; if `durable`, a power cut too.
        """
        try:
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            by = _by(self.path) if _is_busy(error) else ""
            raise StoreFailed(
                f"{self.path}: cannot be written ({error}{by}); nothing more was sent."
            ) from None

    def rows(self, query: str, values: tuple = ()) -> list[tuple]:
        """Return the rows of a query."""
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise StoreFailed(f"{self.path}: cannot be read ({error}).") from None

    def close(self) -> None:
        """Close the connection; what was committed stays."""
        self._connection.close()


def _is_busy(error: sqlite3.Error) -> bool:
    # The lower byte is the kind, the rest says more.
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _by(path: str) -> str:
    """Return which other processes have a file open, as far as this one may know."""
    wanted, found = os.path.realpath(path), []
    for folder in Path("/proc").glob("[0-9]*/fd"):
        pid = folder.parent.name
        with suppress(OSError):
            links = (os.readlink(link) for link in folder.iterdir())
            if int(pid) != os.getpid() and wanted in links:
                name = (folder.parent / "comm").read_text(encoding="utf-8").strip()
                found.append(f"{pid} ({name})")
    return f" by process {', '.join(found)}" if found else " by another process"


def _statements(script: str) -> Iterator[str]:
    """Yield a script's statements: executescript would commit the transaction it is part of."""
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
