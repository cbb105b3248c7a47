"""Waiting for a coroutine where there is an event loop, and where there is none."""

from __future__ import annotations

import ast
import asyncio
import contextvars
from pathlib import Path

import pytest

import pie_jax
from pie_jax.errors import PieError
from pie_jax.llm.sending.waiting import wait_for

NAME = contextvars.ContextVar("NAME", default="unset")


async def _double(value: int) -> tuple[int, str]:
    await asyncio.sleep(0)
    return 2 * value, NAME.get()


async def _fail() -> None:
    raise PieError("no.")


def test_without_a_loop() -> None:
    assert wait_for(_double(2)) == (4, "unset")
    with pytest.raises(PieError, match="no"):
        wait_for(_fail())


def test_inside_a_running_loop() -> None:
    """As in a notebook: the same value, context and error."""

    async def notebook() -> None:
        NAME.set("set")
        assert wait_for(_double(2)) == (4, "set")
        with pytest.raises(PieError, match="no"):
            wait_for(_fail())
        assert wait_for(_double(3)) == (6, "set")

    asyncio.run(notebook())


def test_nothing_else_starts_a_loop() -> None:
    """Every entry of the library goes through `wait_for`."""
    for path in Path(pie_jax.__file__).parent.rglob("*.py"):
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Attribute)]
        starts = [n for n in calls if ast.unparse(n) in ("asyncio.run", "asyncio.Runner")]
        assert not starts or path.name == "waiting.py", path
