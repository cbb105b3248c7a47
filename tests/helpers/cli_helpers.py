"""The command line, run in this process."""

import sys

import pytest

from pie_jax.cli import app


def pie(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run `pie-jax` in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["pie-jax", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        app.main()
    return int(stop.value.code or 0)
