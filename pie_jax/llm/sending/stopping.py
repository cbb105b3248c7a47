"""A signal that ends everything that waits, with the reason."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from pie_jax.llm.errors import Stopped


class StopSignal:
    """Whether a client may still send; the first reason given stays."""

    def __init__(self, sleep: Callable[[float], Awaitable[None]]):
        self.error: Stopped | None = None
        self._sleep = sleep
        self._event = asyncio.Event()

    def set(self, error: Stopped) -> None:
        """Stop for this reason; those who sleep wake up and raise it."""
        self.error = self.error or error
        self._event.set()

    def check(self) -> None:
        """Raise the reason if stopped."""
        if self.error is not None:
            # A fresh instance: one shared by many tasks would collect all their tracebacks.
            raise type(self.error)(*self.error.args)

    async def sleep(self, seconds: float) -> None:
        """Sleep, or raise the reason as soon as stopped."""
        self.check()
        sleeper = asyncio.ensure_future(self._sleep(seconds))
        stopper = asyncio.ensure_future(self._event.wait())
        try:
            await asyncio.wait({sleeper, stopper}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeper.cancel()
            stopper.cancel()
        self.check()
