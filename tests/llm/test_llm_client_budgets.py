"""Budgets, and the limits on requests, tokens and connections."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import llm_client_helpers
import pytest
from llm_client_helpers import (
    ask,
    complete,
    complete_all,
    config,
    use,
)
from llm_server import Seen, Send, completion, echo, error, first
from refusals import refuses

from pie_jax.llm import (
    BudgetSpent,
    LLMClient,
    LLMConfig,
    LLMStore,
    Outcome,
    Prices,
)
from pie_jax.llm.sending.timing import Timing

serve, path, no_key = llm_client_helpers.FIXTURES


@pytest.mark.parametrize(
    "budget",
    [
        {"max_calls": 20},
        {"max_tokens_budget": 20 * 15 + 10},
        {"max_cost": 20 * 15e-6 + 1e-5, "prices": Prices(1, 1)},
    ],
)
def test_a_budget_stops_cleanly_and_resumes(serve, path: Path, budget: dict):
    server = serve()
    requests = [ask(f"r{i}", max_output_tokens=20) for i in range(30)]
    got: list[Outcome] = []

    async def collect(client: LLMClient) -> None:
        async for outcome in client.complete_many(requests):
            got.append(outcome)

    def stop(settings: LLMConfig) -> str:
        return refuses(lambda: use(settings, path, collect), str(path), kind=BudgetSpent)

    settings = config(server, **budget)
    assert next(iter(budget)) in stop(settings)
    assert len(got) == len(server.seen) == 20
    stop(settings)  # a rerun with the same budget sends nothing, and still has the answers
    assert len(got) == 40
    assert len(server.seen) == 20
    raised = {
        name: 2 * budget[name]
        for name in ("max_calls", "max_tokens_budget", "max_cost")
        if name in budget
    }
    use(replace(settings, **raised), path, collect)
    assert len(server.seen) == 30
    assert {seen.nth for seen in server.seen} == {1}
    with LLMStore(path) as store:
        totals = store.ledger.totals()
    assert (totals.calls, totals.tokens) == (30, 450)


def test_a_budget_counts_what_may_have_been_charged_and_nothing_else(serve, path: Path):
    server = serve(first(error(500), error(429), Send(cut=0)))
    settings = config(server, prices=Prices(1, 1), max_cost=1.0)
    complete(settings, path, ask(max_output_tokens=100))
    with LLMStore(path) as store:
        totals = store.ledger.totals()
        costs = {row.status: row.cost for row in store.ledger.summary()}
    assert totals.calls == 2
    assert totals.tokens == 15 + 100 + 5  # the dropped one with prompt and output limit
    assert totals.cost == pytest.approx(120e-6)
    assert costs["connection_lost"] is None
    assert costs["server_error"] == 0


def test_a_budget_of_zero_reads_the_store_only(serve, path: Path):
    server = serve()
    complete(config(server), path)
    assert complete(config(server, max_calls=0), path).cached
    with pytest.raises(BudgetSpent):
        complete(config(server, max_calls=0), path, ask("two"))


def test_a_slot_is_free_while_a_request_waits_for_its_retry(serve, path: Path):
    server = serve(lambda seen: error(500) if seen.prompt == "r0" and seen.nth == 1 else echo(seen))
    settings = config(server, concurrency=1, backoff_base=1.0, backoff_cap=1.0)
    complete_all(
        settings, path, [ask(f"r{i}") for i in range(6)], timing=Timing(random=lambda: 1.0)
    )
    assert [seen.prompt for seen in server.seen] == ["r0", "r1", "r2", "r3", "r4", "r5", "r0"]


def test_retry_after_of_a_429_holds_all_requests(serve, path: Path):
    def script(seen: Seen) -> Send:
        limited = seen.prompt == "r3" and seen.nth == 1
        return error(429, headers={"retry-after": "0.5"}) if limited else echo(seen)

    server = serve(script)
    complete_all(config(server, concurrency=1), path, [ask(f"r{i}") for i in range(8)])
    times = [seen.at for seen in server.seen]
    limited = next(i for i, seen in enumerate(server.seen) if seen.prompt == "r3")
    assert times[limited + 1] - times[limited] >= 0.5


def test_concurrency_is_bounded_and_connections_are_pooled(serve, path: Path):
    server = serve(lambda seen: replace(echo(seen), delay=0.02))
    complete_all(config(server, concurrency=4), path, [ask(f"r{i}") for i in range(60)])
    ends = [seen.at + 0.02 for seen in server.seen]
    for seen in server.seen:
        under_way = sum(s.at <= seen.at < e for s, e in zip(server.seen, ends, strict=True))
        assert under_way <= 4
    assert server.connections <= 4


def test_tokens_per_minute(serve, path: Path):
    server = serve(lambda seen: completion('{"explanation": "x"}', usage=(15, 5)))
    settings = config(server, tpm=200)
    requests = [ask(f"r{i}", max_output_tokens=20) for i in range(40)]
    complete_all(settings, path, requests, timing=Timing(minute=0.5))
    times = [seen.at for seen in server.seen]
    assert times[-1] - times[0] >= 0.5 * (40 * 20 / 200 - 1)  # 10 calls a window, 4 windows
    assert times[-1] - times[0] >= 0.5 * 2
