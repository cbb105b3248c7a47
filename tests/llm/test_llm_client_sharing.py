"""Clients that share a file, callers that give up, and closing while calls are out."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import llm_client_helpers
import pytest
from llm_client_helpers import (
    ask,
    complete,
    config,
    statuses,
    use,
)
from llm_server import Send, completion, echo

from pie_jax.llm import (
    ClientClosed,
    LLMClient,
    LLMStore,
)

serve, path, no_key = llm_client_helpers.FIXTURES


def test_equal_requests_under_way_are_sent_once(serve, path: Path):
    server = serve(lambda seen: replace(echo(seen), delay=0.1))

    async def main() -> None:
        with LLMStore(path) as store:
            settings = config(server)
            async with (
                LLMClient(settings, store, name="explainer") as explainer,
                LLMClient(settings, store, name="judge") as judge,
            ):
                clients = (explainer, judge, explainer, judge)
                replies = await asyncio.gather(*(client.complete(ask()) for client in clients))
                assert {reply.value for reply in replies} == {"about one"}

    asyncio.run(main())
    assert len(server.seen) == 1


def test_clients_apart_share_a_file(serve, path: Path):
    server, other = serve(), serve(lambda seen: completion('{"explanation": "judged"}'))

    async def main() -> None:
        with LLMStore(path) as store, LLMStore(path) as twin:
            explain, judge = config(server), replace(config(other), model="j")
            async with (
                LLMClient(explain, store, name="explainer") as explainer,
                LLMClient(judge, store, name="judge") as judging,
                LLMClient(explain, twin, name="elsewhere") as elsewhere,
            ):
                assert (await explainer.complete(ask())).value == "about one"
                assert (await judging.complete(ask())).value == "judged"
                assert (await elsewhere.complete(ask())).cached
                rows = store.ledger.summary()
                assert [(row.client, row.model, row.status) for row in rows] == [
                    ("explainer", "m", "ok"),
                    ("judge", "j", "ok"),
                ]
                assert rows[0].prompt_tokens == 10
                assert rows[0].cost is None

    asyncio.run(main())
    assert (len(server.seen), len(other.seen)) == (1, 1)


def test_a_caller_that_gives_up_takes_nothing_from_another(serve, path: Path):
    server = serve(lambda seen: replace(echo(seen), delay=0.2))

    async def run(client: LLMClient) -> None:
        impatient = asyncio.create_task(client.complete(ask()))
        patient = asyncio.create_task(client.complete(ask()))
        await asyncio.sleep(0.05)
        impatient.cancel()
        assert (await patient).value == "about one"

    use(config(server), path, run)
    assert len(server.seen) == 1


def test_closing_lets_calls_that_are_out_arrive(serve, path: Path):
    server = serve(lambda seen: replace(echo(seen), delay=0.2))

    async def run(client: LLMClient) -> None:
        task = asyncio.create_task(client.complete(ask()))
        while not server.seen:
            await asyncio.sleep(0.01)
        task.cancel()

    use(config(server), path, run)
    assert complete(config(server), path).cached

    async def closed(client: LLMClient) -> None:
        await client.close()
        with pytest.raises(ClientClosed):
            await client.complete(ask("two"))

    use(config(server), path, closed)


def test_closing_does_not_wait_for_ever(serve, path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pie_jax.llm.client._CLOSING_SECONDS", 0.05)
    server = serve(lambda seen: Send(delay=60))

    async def run(client: LLMClient) -> asyncio.Task:
        task = asyncio.create_task(client.complete(ask(max_output_tokens=100)))
        while not server.seen:
            await asyncio.sleep(0.01)
        return task

    assert use(config(server), path, run).cancelled()
    assert statuses(path) == ["cancelled"]
    with LLMStore(path) as store:
        assert store.ledger.totals().tokens == 105  # it may have been charged
