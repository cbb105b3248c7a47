"""A chat-completions server on loopback that fails as a script tells it to.

It speaks just enough HTTP/1.1 for the client, on its own event loop in a thread, and logs every
request with the time it came and whether the whole reply went out.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any


@dataclass(frozen=True)
class Send:
    """What the server does with a request: wait, send a reply or part of it, or hang up.

    `cut` sends that many bytes of the reply and then drops the connection; 0 drops it at once.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: int | None = None


@dataclass
class Seen:
    """A request as the server saw it; `nth` counts the same body, from 1."""

    at: float
    body: dict[str, Any]
    headers: dict[str, str]
    path: str
    nth: int
    sent: Send | None = None
    whole: bool = False

    @property
    def prompt(self) -> str:
        """The last message's text."""
        return self.body["messages"][-1]["content"]

    @property
    def answered(self) -> bool:
        """Whether a whole HTTP 200 went out."""
        return self.whole and self.sent is not None and self.sent.status == 200


def completion(
    text: str | None, *, finish: str = "stop", usage: Any = (10, 5), **more: Any
) -> Send:
    """Return a chat completion."""
    body: dict[str, Any] = {
        "object": "chat.completion",
        "model": "served-model",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
        ],
        **more,
    }
    if usage is not None:
        body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    return Send(200, json.dumps(body).encode())


def error(
    status: int, message: str = "no", headers: dict[str, str] | None = None, **more: Any
) -> Send:
    """Return an error as OpenAI words it."""
    body = {
        "error": {"message": message, "type": "some_error", "param": None, "code": None, **more}
    }
    return Send(status, json.dumps(body).encode(), headers or {})


Script = Callable[[Seen], Send]


class LLMServer:
    """Runs a script on a free port of 127.0.0.1; `seen` is its log."""

    def __init__(self, script: Script):
        self.script = script
        self.seen: list[Seen] = []
        self.connections = 0
        self._counts: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._handlers: set[asyncio.Task] = set()

    @property
    def url(self) -> str:
        """The base URL for a client."""
        return f"http://127.0.0.1:{self.port}/v1"

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._connection, "127.0.0.1", 0)
        )
        self.port = self._server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        for task in self._handlers:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*self._handlers, return_exceptions=True))
        self._server.close()
        self._loop.run_until_complete(self._server.wait_closed())
        self._loop.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        self.connections += 1
        try:
            while (seen := await self._read(reader)) is not None:
                if not await self._reply(seen, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            self._handlers.discard(task)

    async def _read(self, reader: asyncio.StreamReader) -> Seen | None:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        pairs = [line.split(":", 1) for line in lines]
        headers = {name.lower(): value.strip() for name, value in pairs}
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        self._counts[raw.decode()] += 1
        seen = Seen(
            time.monotonic(), json.loads(raw), headers, first.split()[1], self._counts[raw.decode()]
        )
        self.seen.append(seen)
        return seen

    async def _reply(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        send = seen.sent = self.script(seen)
        if send.delay:
            await asyncio.sleep(send.delay)
        headers = {"content-type": "application/json", "content-length": str(len(send.body))}
        lines = [f"{name}: {value}" for name, value in (headers | send.headers).items()]
        head = "\r\n".join([f"HTTP/1.1 {send.status} Some Reason", *lines, "", ""])
        whole = head.encode("latin-1") + send.body
        if send.cut is not None:
            writer.write(whole[: send.cut])
            await writer.drain()
            await asyncio.sleep(0.01)  # abort would throw away what was not sent yet
            return False
        writer.write(whole)
        await writer.drain()
        seen.whole = True
        return True

    def close(self) -> None:
        """Stop serving and join the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)

    def __enter__(self) -> LLMServer:
        self._thread.start()
        self._ready.wait(timeout=10)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def echo(seen: Seen) -> Send:
    """Answer with an explanation that repeats the prompt."""
    return completion(json.dumps({"explanation": f"about {seen.prompt}"}))


def first(*sends: Send, then: Script = echo) -> Script:
    """Return a script that does these things with the first tries of each request."""
    return lambda seen: sends[seen.nth - 1] if seen.nth <= len(sends) else then(seen)
