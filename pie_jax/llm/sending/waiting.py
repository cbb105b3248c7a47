"""Waiting for a coroutine from ordinary code, also where an event loop is already running."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import Future
from contextvars import copy_context
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")


def wait_for(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine returns.

    A notebook or an async program has a running loop in this thread; it then stands still until
    the coroutine is done in a thread of its own.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    result: Future[T] = Future()
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task]] = Future()
    context = copy_context()

    async def announced() -> T:
        task = asyncio.current_task()
        assert task is not None
        started.set_result((asyncio.get_running_loop(), task))
        return await coroutine

    def work() -> None:
        try:
            result.set_result(context.run(asyncio.run, announced()))
        except BaseException as error:
            result.set_exception(error)

    thread = Thread(target=work, name="pie_jax.wait_for")
    thread.start()
    try:
        thread.join()
    except KeyboardInterrupt:
        # As asyncio.run does in the main thread: what is on its way is stored, then it ends.
        if started.done():
            loop, task = started.result()
            loop.call_soon_threadsafe(task.cancel)
        thread.join()
        raise
    return result.result()
