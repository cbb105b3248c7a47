"""Thousands of calls, kills and secrets: what must hold for the client as a whole."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
import traceback
from collections import Counter
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import pytest
from llm_server import LLMServer, Seen, Send, completion, echo, error
from rich.traceback import Traceback

from pie_jax.llm import LLMClient, LLMConfig, LLMError, LLMStore, Message, Request
from pie_jax.llm.parsing import schemas
from pie_jax.llm.sending.timing import Timing

N = 1000
RPM, MINUTE = 200, 2.0
CONCURRENCY = 16
HANGS = 8.0


def ask(text: str) -> Request[str]:
    return Request((Message("user", text),), schemas.EXPLANATION)


def draw(*what: object) -> float:
    """Return a number in [0, 1) that these things decide, whatever the order of requests."""
    digest = hashlib.sha256(repr(what).encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def faulty(seen: Seen) -> Send:
    """Fail three times in ten, in every way there is; at most five times a request."""
    good = echo(seen)
    if seen.prompt in ("r1", "r5", "r9") and seen.nth == 1:
        return replace(error(500), delay=10 * HANGS)
    if seen.nth > 5 or draw(seen.prompt, seen.nth) >= 0.3:
        # Some right answers are in other forms.
        if draw(seen.prompt) < 0.1:
            return completion(
                "```json\n" + json.dumps({"explanation": f"about {seen.prompt}"}) + "\n```"
            )
        return good
    kinds = [
        error(429, headers={"retry-after": "0"}),
        error(429, headers={"retry-after": formatdate(time.time(), usegmt=True)}),
        error(429),
        error(500),
        Send(502, b"<html>Bad gateway</html>", {"content-type": "text/html"}),
        error(503, headers={"retry-after": "0.05"}),
        error(409),
        Send(cut=0),
        replace(good, cut=30),
        replace(good, cut=len(good.body) + 70),
        Send(200, b"<!doctype html>", {"content-type": "text/html"}),
        Send(200, good.body[:50]),
        Send(200, b'{"error": {"message": "overloaded", "code": "server_error"}}'),
    ]
    return kinds[int(draw("kind", seen.prompt, seen.nth) * len(kinds))]


@pytest.mark.slow
def test_a_thousand_requests_with_faults(tmp_path: Path):
    """All answers arrive, each request succeeds once, and the limit holds by the server's log."""
    path = tmp_path / "llm.sqlite"

    async def main(url: str) -> dict[int, str]:
        config = LLMConfig(
            url,
            "m",
            api_key_env="",
            concurrency=CONCURRENCY,
            rpm=RPM,
            timeout=HANGS,
            backoff_base=0.05,
            backoff_cap=0.5,
        )
        found = {}
        with LLMStore(path) as store:
            timing = Timing(minute=MINUTE, random=random.Random(0).random)
            async with LLMClient(config, store, timing=timing) as client:
                async for outcome in client.complete_many(ask(f"r{i}") for i in range(N)):
                    assert outcome.error is None
                    found[outcome.index] = outcome.reply.value
        return found

    with LLMServer(faulty) as server:
        found = asyncio.run(main(server.url))
        seen = list(server.seen)
    assert found == {i: f"about r{i}" for i in range(N)}
    assert Counter(s.prompt for s in seen if s.answered and readable(s)) == Counter(
        f"r{i}" for i in range(N)
    )
    assert 0.25 < sum(not (s.answered and readable(s)) for s in seen) / len(seen) < 0.35
    check_rate([s.at for s in seen])
    with LLMStore(path) as store:
        rows = {row.status: row.calls for row in store.ledger.summary()}
    assert rows["ok"] == N
    assert sum(rows.values()) == len(seen)
    assert {"rate_limited", "server_error", "timeout", "connection_lost", "bad_reply"} < set(rows)


def readable(seen: Seen) -> bool:
    """Return whether a reply was a whole completion."""
    try:
        return "choices" in json.loads(seen.sent.body)
    except ValueError:
        return False


def check_rate(times: list[float]) -> None:
    """Check that no window holds more than RPM requests, and those that came to it late.

    Requests are logged as they arrive. Those that were sent before a window and arrive in it were
    all on the wire at its start, so that they are no more than CONCURRENCY, however slow this is.
    """
    most = RPM + CONCURRENCY
    end = 0
    for start, at in enumerate(times):
        while end < len(times) and times[end] < at + MINUTE:
            end += 1
        assert end - start <= most


CLIENT = """
import asyncio, sys
from pie_jax.llm import LLMClient, LLMConfig, LLMStore, Message, Request, schemas

async def main(url, path, n):
    config = LLMConfig(url, "m", api_key_env="", backoff_base=0.01, backoff_cap=0.05)
    requests = [Request((Message("user", f"r{i}"),), schemas.EXPLANATION) for i in range(n)]
    with LLMStore(path) as store:
        async with LLMClient(config, store) as client:
            values = {o.index: o.reply.value async for o in client.complete_many(requests)}
    assert values == {i: f"about r{i}" for i in range(n)}

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


def test_kill_9_and_rerun_repeats_no_stored_answer(tmp_path: Path):
    path, n, chance = tmp_path / "llm.sqlite", 240, random.Random(0)

    def script(seen: Seen) -> Send:
        good = replace(echo(seen), delay=0.03 * draw("delay", seen.prompt))
        return error(500) if draw(seen.prompt, seen.nth) < 0.1 else good

    with LLMServer(script) as server:
        command = [sys.executable, "-c", CLIENT, server.url, str(path), str(n)]
        known: set[str] = set()
        for _ in range(3):
            begun = len(server.seen)
            target = begun + chance.randint(20, 70)
            process = subprocess.Popen(command, stderr=subprocess.PIPE)
            deadline = time.monotonic() + 60
            while len(server.seen) < target and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(0.02 * chance.random())
            process.send_signal(signal.SIGKILL)
            _, stderr = process.communicate()
            assert process.returncode == -signal.SIGKILL, stderr.decode()
            asked = {seen.prompt for seen in server.seen[begun:]}
            assert not asked & known
            answered = {seen.prompt for seen in server.seen if seen.answered}
            known = stored(path)
            # Lost are at most those on the wire: one a slot.
            assert len(answered - known) <= 3 * 8
            assert known <= answered
            assert len(known) > 0
        begun = len(server.seen)
        done = subprocess.run(command, capture_output=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr.decode()
        assert not {seen.prompt for seen in server.seen[begun:]} & known
        seen_before = len(server.seen)
        subprocess.run(command, check=True, timeout=120)
        assert len(server.seen) == seen_before
        assert stored(path) == {f"r{i}" for i in range(n)}


def stored(path: Path) -> set[str]:
    """Return the prompts whose answers are in the file that a killed process left."""
    connection = sqlite3.connect(path)
    try:
        rows = connection.execute("SELECT request FROM answers").fetchall()
    finally:
        connection.close()
    return {json.loads(request)["messages"][-1]["content"] for (request,) in rows}


# What was shown; no local variable, or each traceback would repeat the ones before.
SHOWN: list[str] = []
KEY = "sk-Very/Secret+0123456789abcdef"


def test_the_key_shows_up_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Not in files, logs, reprs, errors or tracebacks with local variables."""
    monkeypatch.setenv("PIE_TEST_KEY", KEY + "\n")
    caplog.set_level(logging.DEBUG)
    escaped = KEY.replace("/", "\\/")

    def script(seen: Seen) -> Send:
        if seen.prompt == "echo":
            return completion(json.dumps({"explanation": f"the key is {KEY}"}))
        if seen.prompt == "escaped":
            return Send(200, completion(f'{{"explanation": "{KEY}"}}').body.replace(b"/", b"\\/"))
        if seen.prompt == "nonsense":
            return completion(f"your key {KEY}")
        kinds = {
            "400": error(400, f"bad key {KEY}", param=KEY, code=KEY),
            "raw": Send(400, f'{{"error": "{escaped}"}}'.encode()),
            "500": error(500, KEY),
            "dropped": Send(cut=0),
            "half": replace(echo(seen), cut=50),
            "html": Send(200, f"<html>{KEY}".encode()),
            "hangs": Send(delay=60),
            "redirect": Send(302, b"", {"location": "/elsewhere"}),
            "401": error(401, f"Incorrect API key provided: {KEY}"),
        }
        return kinds[seen.prompt]

    SHOWN.clear()

    async def main(url: str) -> None:
        config = LLMConfig(url, "m", "PIE_TEST_KEY", timeout=1.0, max_attempts=2, backoff_base=0.01)
        prompts = "echo escaped nonsense 400 raw 500 dropped half html hangs redirect 401".split()
        with LLMStore(tmp_path / "llm.sqlite") as store:
            for prompt in prompts:
                async with LLMClient(config, store) as client:
                    await try_one(client, prompt)
            async with LLMClient(config, store) as client:
                try:
                    await asyncio.wait_for(client.complete(ask("hangs")), 0.2)
                except TimeoutError as error:
                    SHOWN.extend(every_way_to_show(error))
            SHOWN.append(repr([store.notes(), store.ledger.summary()]))

    async def try_one(client: LLMClient, prompt: str) -> None:
        try:
            SHOWN.append(repr(await client.complete(ask(prompt))))
        except LLMError as error:
            SHOWN.extend(every_way_to_show(error))
            SHOWN.append(repr(vars(error)))
        sender = client._sender
        objects = [client, client.config, client.store, sender, sender._transport]
        SHOWN.extend(repr(thing) + repr(vars(thing)) for thing in objects)
        SHOWN.append(repr(sender._transport.key))
        assert sender._transport.key.is_set

    with LLMServer(script) as server:
        asyncio.run(main(server.url))
        assert {seen.headers["authorization"] for seen in server.seen} == {f"Bearer {KEY}"}
        assert len(server.seen) > 12
    assert len(SHOWN) > 50
    for secret in (KEY, KEY[6:], escaped, "0123456789abcdef"):
        assert not [text for text in SHOWN if secret in text]
        assert secret not in caplog.text
        for file in tmp_path.rglob("*"):
            assert secret.encode() not in file.read_bytes()


def every_way_to_show(error: BaseException) -> list[str]:
    """Return an exception as str, repr and tracebacks that print local variables."""
    plain = traceback.TracebackException.from_exception(error, capture_locals=True)
    pretty = Traceback.from_exception(
        type(error), error, error.__traceback__, show_locals=True, locals_max_string=None
    )
    # What rich would print, without the time that it takes to draw it.
    return [str(error), repr(error), "".join(plain.format()), repr(pretty.trace)]


def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PIE_TEST_KEY", "sk-secret\nsecond-line")
    config = LLMConfig("http://127.0.0.1:1/v1", "m", "PIE_TEST_KEY")
    with LLMStore(tmp_path / "llm.sqlite") as store:
        try:
            LLMClient(config, store)
        except Exception as error:
            texts = every_way_to_show(error)
            assert "PIE_TEST_KEY" in texts[0]
            assert not [text for text in texts if "secret" in text.replace("sk-secret\\n", "sk-")]
        else:
            raise AssertionError("the key was taken")


def test_importing_the_client_loads_no_jax():
    code = "import sys, pie_jax.llm; sys.exit('jax' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": ""}
    assert (
        subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
    )
