"""Replies that the client learns from, repairs, refuses or stores."""

from __future__ import annotations

import asyncio
import json
import sqlite3
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
from llm_server import Seen, Send, completion, echo, error
from refusals import refuses

from pie_jax.llm import (
    AuthFailed,
    ContentFiltered,
    InvalidReply,
    LLMClient,
    LLMError,
    LLMStore,
    Message,
    Outcome,
    Prices,
    Request,
    RequestRefused,
    Stopped,
    StoreFailed,
    Truncated,
    estimate,
)
from pie_jax.llm.parsing import schemas

serve, path, no_key = llm_client_helpers.FIXTURES


def picky(seen: Seen) -> Send:
    """Refuse what reasoning models and small servers refuse, one thing at a time."""
    body = seen.body
    if "max_tokens" in body:
        return error(400, "Unsupported parameter: 'max_tokens'", param="max_tokens")
    if "temperature" in body:
        return error(400, "Unsupported value: 'temperature' does not support 0.0")
    if body.get("response_format", {}).get("type") == "json_schema":
        return error(400, "'json_schema' is not supported; use 'json_object'")
    if "response_format" in body:
        return error(422, "response_format: Extra inputs are not permitted")
    return echo(seen)


def test_refused_parameters_are_learned_once_per_model(serve, path: Path):
    server = serve(picky)
    notes: list[str] = []

    async def run(client: LLMClient) -> None:
        async for outcome in client.complete_many([ask(f"r{i}") for i in range(40)]):
            assert outcome.reply is not None
        notes.extend(client.notes)

    use(config(server), path, run)
    assert [seen.sent.status for seen in server.seen[:5]] == [400, 400, 400, 422, 200]
    assert len(server.seen) == 44
    assert server.seen[-1].body["max_completion_tokens"] == 2048
    assert len(notes) == 4
    assert notes[0].startswith("m refuses max_tokens as max_tokens, so it is sent as max_comp")
    assert notes[1].startswith("m refuses temperature as a number, so it is left out")
    # A later run knows, and finds the answers that were asked for in another form.
    complete(config(server), path, ask("new"))
    complete(config(server), path, ask("r0"))
    assert len(server.seen) == 45
    with LLMStore(path) as store:
        assert len(store.notes()) == 3


def test_a_parameter_refused_to_many_at_once_is_learned_once(serve, path: Path):
    late = [False]

    def script(seen: Seen) -> Send:
        if late[0] and "temperature" in seen.body:
            return replace(error(400, "Unsupported parameter: 'temperature'"), delay=0.1)
        return echo(seen)

    server = serve(script)

    async def run(client: LLMClient) -> list[str]:
        await client.complete(ask("first"))
        late[0] = True
        await asyncio.gather(*(client.complete(ask(f"r{i}")) for i in range(8)))
        return client.notes

    assert len(use(config(server), path, run)) == 1


def test_a_value_out_of_range_is_not_dropped(serve, path: Path):
    server = serve(lambda seen: error(400, "max_tokens is too large: 2048", param="max_tokens"))
    with pytest.raises(RequestRefused, match="too large"):
        complete(config(server), path)
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("finish", "kind"), [("length", Truncated), ("content_filter", ContentFiltered)]
)
def test_an_unfinished_answer_is_a_failure_that_is_not_paid_twice(
    serve, path: Path, finish: str, kind: type[LLMError]
):
    server = serve(lambda seen: completion('{"explanation": "cut', finish=finish))
    for _ in range(2):
        refuses(lambda: complete(config(server), path), "m ", kind=kind)
    assert len(server.seen) == 1
    assert statuses(path) == [finish]


def test_a_reply_in_the_wrong_form_is_repaired_once(serve, path: Path):
    def script(seen: Seen) -> Send:
        if seen.prompt == "one":
            return completion("It fires on names, I think.")
        return completion('```json\n{"explanation": "names"}\n```')

    server = serve(script)
    for cached in (False, True):
        reply = complete(config(server, prices=Prices(1, 1)), path)
        assert (reply.value, reply.repaired, reply.cached) == ("names", True, cached)
        assert reply.usage.total == 30
        assert reply.cost == pytest.approx(30e-6)
    assert len(server.seen) == 2
    roles = [message["role"] for message in server.seen[1].body["messages"]]
    assert roles == ["user", "assistant", "user"]
    assert server.seen[1].body["messages"][1]["content"] == "It fires on names, I think."
    assert '{"explanation": ' in server.seen[1].prompt


def test_nonsense_is_a_failure_and_no_score(serve, path: Path):
    server = serve(lambda seen: completion("the the the"))
    request = Request((Message("user", "rate"),), schemas.ratings([1, 2]))
    for _ in range(2):
        with pytest.raises(InvalidReply, match="ratings") as caught:
            complete(config(server), path, request)
    assert caught.value.replies == ("the the the",) * 2
    assert len(server.seen) == 2


def test_missing_ratings_are_reported_for_the_caller_to_ask_again(serve, path: Path):
    ratings = {"ratings": [{"id": "1", "rating": 2}, {"id": 77, "rating": 0}]}
    server = serve(lambda seen: completion(json.dumps(ratings)))
    request = Request((Message("user", "rate"),), schemas.ratings([1, 2, 3]))
    value = complete(config(server), path, request).value
    assert value.ratings == {1: 2}
    assert value.missing == (2, 3)
    assert value.flaws.invented == 1
    assert len(server.seen) == 1


def test_failures_are_outcomes_and_the_rest_goes_on(serve, path: Path):
    server = serve(lambda seen: error(400) if seen.prompt == "r3" else echo(seen))
    calls: list[tuple[int, int, str]] = []

    async def run(client: LLMClient) -> list[Outcome]:
        lazy = (ask(f"r{i}") for i in range(50))
        many = client.complete_many(lazy, progress=lambda *a: calls.append(a), total=50)
        return [outcome async for outcome in many]

    outcomes = use(config(server), path, run)
    assert sorted(outcome.index for outcome in outcomes) == list(range(50))
    (failed,) = (outcome for outcome in outcomes if outcome.reply is None)
    assert failed.index == 3
    assert isinstance(failed.error, RequestRefused)
    assert calls[-1] == (50, 50, "calls")


def test_leaving_early_is_clean(serve, path: Path):
    server = serve()

    async def run(client: LLMClient) -> None:
        async for _ in client.complete_many(ask(f"r{i}") for i in range(1000)):
            break

    use(config(server), path, run)
    assert len(server.seen) < 200


def test_usage_that_the_server_does_not_count_is_estimated(serve, path: Path):
    server = serve(lambda seen: completion('{"explanation": "abcd"}', usage=None))
    usage = complete(config(server), path).usage
    assert usage.estimated
    assert (usage.prompt_tokens, usage.completion_tokens) == (5, 6)


def test_texts_that_no_encoding_holds_are_stored(serve, path: Path):
    server = serve(lambda seen: completion('{"explanation": "a\\ud800"}\ud800'))
    assert complete(config(server), path, ask("\ud800 \x00")).value == "a\ufffd"
    assert complete(config(server), path, ask("\ud800 \x00")).cached


def test_a_store_that_cannot_be_written_stops(serve, path: Path):
    server = serve()

    async def run(client: LLMClient) -> None:
        await client.complete(ask())
        client.store._database._connection.execute("PRAGMA query_only = 1")
        async for _ in client.complete_many(ask(f"r{i}") for i in range(50)):
            pass

    refuses(lambda: use(config(server), path, run), str(path), kind=StoreFailed)
    assert len(server.seen) == 1


def test_files_that_are_no_store(tmp_path: Path):
    text = tmp_path / "notes.txt"
    text.write_text("not a database, " * 100)
    refuses(lambda: LLMStore(text), text)
    refuses(lambda: LLMStore(tmp_path / "no" / "folder.sqlite"), "folder.sqlite")
    other = tmp_path / "other.sqlite"
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE x (y)")
    connection.close()
    refuses(lambda: LLMStore(other), other, "another program")
    assert not list(tmp_path.glob("other.sqlite-*"))
    newer = tmp_path / "newer.sqlite"
    LLMStore(newer).close()
    connection = sqlite3.connect(newer)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    refuses(lambda: LLMStore(newer), newer, "99")


def test_a_proxy_of_the_environment_is_not_used_on_loopback(
    serve, path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert complete(config(serve()), path).value == "about one"


def test_an_estimate_before_a_cent_is_spent(serve, path: Path):
    server = serve()
    settings = config(server, prices=Prices(1, 2), max_output_tokens=100)
    complete(settings, path, ask("stored"))
    requests = [ask("stored"), ask("abcd" * 10), ask("abcd" * 10), ask("日本")]
    with LLMStore(path) as store:
        found = estimate(requests, settings, store)
    assert (found.calls, found.stored) == (2, 1)
    assert found.prompt_tokens == (10 + 4) + (2 + 4)
    assert found.completion_tokens == 200
    assert found.cost == pytest.approx((20 + 2 * 200) / 1e6)
    assert "about 20 prompt tokens" in str(found)
    assert len(server.seen) == 1
    assert estimate(requests, replace(settings, prices=None)).cost is None
    assert (found + found).calls == 4


def test_errors_say_what_follows():
    assert issubclass(AuthFailed, Stopped)
    kinds = [kind for base in LLMError.__subclasses__() for kind in base.__subclasses__()]
    assert len({kind.kind for kind in kinds}) == len(kinds)
