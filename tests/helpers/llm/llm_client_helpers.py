"""Clients of a server on loopback, opened and closed around what a test asks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from llm_server import LLMServer, Seen, Send, echo

from pie_jax.llm import LLMClient, LLMConfig, LLMStore, Message, Outcome, Request
from pie_jax.llm.parsing import schemas


def ask(text: str = "one", **more: Any) -> Request[str]:
    return Request((Message("user", text),), schemas.EXPLANATION, **more)


def config(server: LLMServer, **more: Any) -> LLMConfig:
    fast: dict[str, Any] = {"backoff_base": 0.01, "backoff_cap": 0.05, "timeout": 30.0}
    return LLMConfig(server.url, "m", **(fast | more))


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[Seen], Send]], LLMServer]]:
    servers: list[LLMServer] = []

    def start(script: Callable[[Seen], Send] = echo) -> LLMServer:
        servers.append(LLMServer(script).__enter__())
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "llm.sqlite"


def use(
    settings: LLMConfig, path: Path, do: Callable[[LLMClient], Awaitable[Any]], **more: Any
) -> Any:
    """Return what `do` returns with a client that is opened and closed around it."""

    async def main() -> Any:
        with LLMStore(path) as store:
            async with LLMClient(settings, store, **more) as client:
                return await do(client)

    return asyncio.run(main())


def complete(settings: LLMConfig, path: Path, request: Request | None = None, **more: Any) -> Any:
    return use(settings, path, lambda client: client.complete(request or ask()), **more)


def complete_all(
    settings: LLMConfig, path: Path, requests: list[Request], **more: Any
) -> list[Outcome]:
    async def collect(client: LLMClient) -> list[Outcome]:
        return [outcome async for outcome in client.complete_many(requests)]

    return use(settings, path, collect, **more)


def statuses(path: Path) -> list[str]:
    with LLMStore(path) as store:
        rows = store._database.rows("SELECT status FROM calls ORDER BY id")
    return [status for (status,) in rows]


# A test module that names them has them.
FIXTURES = (serve, path, no_key)
