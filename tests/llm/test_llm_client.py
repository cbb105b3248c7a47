"""The client against a server on loopback that fails in every way the issue names."""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import llm_client_helpers
import pytest
from llm_client_helpers import (
    ask,
    complete,
    complete_all,
    config,
    statuses,
)
from llm_server import Seen, Send, echo, error, first
from refusals import refuses

from pie_jax.llm import (
    AuthFailed,
    BadReply,
    LLMClient,
    LLMConfig,
    LLMError,
    LLMStore,
    Message,
    NotFound,
    OutOfCredit,
    Prices,
    RateLimited,
    Request,
    RequestRefused,
    ServerFailed,
    TimedOut,
    Unreachable,
    WaitTooLong,
)
from pie_jax.llm.parsing import schemas

serve, path, no_key = llm_client_helpers.FIXTURES


def test_an_answer(serve, path: Path):
    server = serve()
    prices = Prices(prompt=1.0, completion=10.0)
    request = Request(
        (Message("system", "be brief"), Message("user", "names")), schemas.EXPLANATION
    )
    reply = complete(config(server, prices=prices, seed=4), path, request)
    assert reply.value == "about names"
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (10, 5)
    assert reply.cost == pytest.approx(60e-6)
    assert (reply.model, reply.cached, reply.repaired) == ("served-model", False, False)
    (seen,) = server.seen
    assert seen.path == "/v1/chat/completions"
    assert "authorization" not in seen.headers
    assert seen.body == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "names"},
        ],
        "stream": False,
        "max_tokens": 2048,
        "temperature": 0.0,
        "seed": 4,
        "response_format": {
            "type": "json_schema",
            "json_schema": {
                "name": "explanation",
                "strict": True,
                "schema": schemas.EXPLANATION.schema,
            },
        },
    }


def test_an_answer_is_paid_once(serve, path: Path):
    server = serve()
    first_reply = complete(config(server), path)
    again = complete(config(server), path)
    assert again.cached
    assert replace(again, cached=False) == first_reply
    assert len(server.seen) == 1
    assert complete(config(server), path, ask(sample=1)).value == first_reply.value
    assert len(server.seen) == 2


ANSWER = echo(Seen(0, {"messages": [{"content": "one"}]}, {}, "", 1))
FAULTS = {
    "429 in seconds": error(429, headers={"retry-after": "0.3"}),
    "429 without": error(429),
    "408": error(408),
    "409": error(409),
    "425": error(425),
    "500": error(500),
    "502 in HTML": Send(502, b"<html>Bad gateway</html>", {"content-type": "text/html"}),
    "503 in seconds": error(503, headers={"retry-after": "0.3"}),
    "hangs": replace(ANSWER, delay=60.0),
    "drops at once": Send(cut=0),
    "half the head": replace(ANSWER, cut=20),
    "half the body": replace(ANSWER, cut=len(ANSWER.body) + 60),
    "HTML": Send(200, b"<!doctype html><p>Log in</p>", {"content-type": "text/html"}),
    "an error in 200": Send(200, b'{"error": {"message": "overloaded"}}'),
    "half a JSON": Send(200, ANSWER.body[:40]),
    "no choices": Send(200, b'{"choices": []}'),
    "bad gzip": Send(200, b"not gzip", {"content-encoding": "gzip"}),
    "nothing": Send(200),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_retried(serve, path: Path, name: str):
    server = serve(first(FAULTS[name]))
    settings = config(server, timeout=0.5 if name == "hangs" else 30.0)
    began = time.monotonic()
    assert complete(settings, path).value == "about one"
    assert len(server.seen) >= 2
    if "seconds" in name:
        assert time.monotonic() - began >= 0.3
    if name != "hangs":  # a loaded machine may run into the short time-out again
        assert len(server.seen) == 2
        assert statuses(path)[-1] == "ok"


def test_retry_after_as_a_date(serve, path: Path):
    def script(seen: Seen) -> Send:
        now = time.time()
        dates = {
            "date": formatdate(now, usegmt=True),
            "retry-after": formatdate(now + 1, usegmt=True),
        }
        return error(429, headers=dates) if seen.nth == 1 else echo(seen)

    server = serve(script)
    complete(config(server), path)
    assert server.seen[1].at - server.seen[0].at >= 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, RequestRefused),
        (401, AuthFailed),
        (402, OutOfCredit),
        (403, AuthFailed),
        (404, NotFound),
        (413, RequestRefused),
        (422, RequestRefused),
    ],
)
def test_what_is_never_retried(serve, path: Path, status: int, kind: type[LLMError]):
    server = serve(lambda seen: error(status, "because\nof this"))
    with pytest.raises(kind) as caught:
        complete(config(server), path)
    assert len(server.seen) == 1
    assert f"HTTP {status}: because of this" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert statuses(path) == [kind.kind]
    assert caught.value.__context__ is None


def test_giving_up(serve, path: Path):
    server = serve(lambda seen: error(500))
    message = refuses(
        lambda: complete(config(server, max_attempts=4), path), "4 times", kind=ServerFailed
    )
    assert len(server.seen) == 4
    assert "HTTP 500" in message
    server.script = lambda seen: Send(200, b"<html>")
    refuses(lambda: complete(config(server, max_attempts=2), path), "HTML", kind=BadReply)
    server.script = lambda seen: error(429)
    refuses(lambda: complete(config(server, max_attempts=2), path), kind=RateLimited)
    server.script = lambda seen: Send(delay=60)
    settings = config(server, max_attempts=1, timeout=0.1)
    refuses(lambda: complete(settings, path), "timeout", kind=TimedOut)


def test_a_reply_that_drips_runs_into_the_time_out(path: Path):
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
            for _ in range(1000):
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.05)
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()

    async def main() -> None:
        server = await asyncio.start_server(drip, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        settings = LLMConfig(f"http://127.0.0.1:{port}/v1", "m", timeout=0.3, max_attempts=1)
        with LLMStore(path) as store:
            async with LLMClient(settings, store) as client:
                with pytest.raises(TimedOut):
                    await client.complete(ask())
        await asyncio.sleep(0.1)
        server.close()
        await server.wait_closed()

    asyncio.run(main())


def test_401_stops_everything_at_once(serve, path: Path):
    server = serve(lambda seen: error(401, "Incorrect API key provided"))
    requests = [ask(f"r{i}") for i in range(200)]
    with pytest.raises(AuthFailed) as caught:
        complete_all(config(server), path, requests)
    assert len(server.seen) == 1
    assert caught.value.exit_code == 2
    assert str(caught.value) == (
        f"{server.url} did not accept the request (HTTP 401: Incorrect API key provided); "
        "set OPENAI_API_KEY to a key."
    )


def test_a_key_that_stops_working_midway_loses_nothing(serve, path: Path):
    server = serve(lambda seen: error(401) if len(server.seen) > 30 else echo(seen))
    requests = [ask(f"r{i}") for i in range(100)]
    with pytest.raises(AuthFailed):
        complete_all(config(server), path, requests)
    answered = {seen.prompt for seen in server.seen if seen.answered}
    assert len(server.seen) <= 30 + 8
    before = len(server.seen)
    server.script = echo
    assert len(complete_all(config(server), path, requests)) == 100
    assert not answered & {seen.prompt for seen in server.seen[before:]}


def test_no_server(path: Path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        settings = LLMConfig(f"http://127.0.0.1:{port}/v1", "m", backoff_base=0.01)
        requests = [ask(f"r{i}") for i in range(50)]
        refuses(
            lambda: complete_all(settings, path, requests),
            str(port),
            "3 attempts",
            kind=Unreachable,
        )
    with LLMStore(path) as store:
        assert store.ledger.totals().calls == 0


def test_a_wait_too_long_stops(serve, path: Path):
    server = serve(lambda seen: error(429, headers={"retry-after": "7200"}))
    refuses(lambda: complete(config(server), path), "7200 s", kind=WaitTooLong)
    assert len(server.seen) == 1


def test_a_redirect_is_not_followed(serve, path: Path):
    other = serve()
    server = serve(lambda seen: Send(307, b"", {"location": other.url}))
    with pytest.raises(NotFound, match="redirected"):
        complete(config(server), path)
    assert not other.seen
