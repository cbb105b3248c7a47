"""What a server's reply is taken for, what it is said to refuse, and configs that are refused."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refuses

from pie_jax.llm import LLMConfig, Message, Prices, Request
from pie_jax.llm.errors import (
    AuthFailed,
    BadReply,
    ContentFiltered,
    LLMError,
    NotFound,
    OutOfCredit,
    RateLimited,
    RequestRefused,
    ServerFailed,
)
from pie_jax.llm.parsing import schemas
from pie_jax.llm.parsing.replies import Completion, Failure, classify
from pie_jax.llm.sending.parameters import LADDERS, adapt, refused

CONFIG = LLMConfig("http://127.0.0.1:1/v1", "m", seed=1)
REQUEST = Request((Message("system", "s"), Message("user", "u")), schemas.EXPLANATION)
BODY = REQUEST.body(CONFIG)


def read(status: int, body: object, headers: dict[str, str] | None = None) -> Completion | Failure:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return classify(status, headers or {}, raw, now=0.0)


def failure(status: int, body: object) -> Failure:
    found = read(status, body)
    assert isinstance(found, Failure)
    return found


def chat(**choice: object) -> dict:
    message = {"role": "assistant", "content": "hi"}
    return {"choices": [{"message": message, "finish_reason": "stop"} | choice]}


def test_completions():
    body = chat() | {"model": "m-1", "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    assert read(200, body) == Completion("hi", "stop", 3, 2, "m-1")
    assert read(200, chat(finish_reason=None)) == Completion("hi", "stop", None, None, "")
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert read(200, chat(message={"content": parts})).text == "ab"
    assert read(200, chat(message={"content": None}, finish_reason="length")).text == ""
    assert read(200, chat() | {"usage": {"prompt_tokens": True, "completion_tokens": -1}}) == (
        Completion("hi", "stop", None, None, "")
    )
    refusal = read(200, chat(message={"content": None, "refusal": "I will not"}))
    assert refusal.finish_reason == "content_filter"


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, {"error": {"message": "bad"}}, RequestRefused),
        (400, {"error": {"code": "content_filter", "message": "policy"}}, ContentFiltered),
        (401, {"error": {"message": "no key"}}, AuthFailed),
        (402, {}, OutOfCredit),
        (403, {"error": "forbidden"}, AuthFailed),
        (403, {"error": {"message": "Your input was flagged"}}, ContentFiltered),
        (404, {"detail": "Not Found"}, NotFound),
        (302, b"", NotFound),
        (413, b"<html>too large</html>", RequestRefused),
        (422, {"detail": [{"loc": ["body", "x"], "msg": "m"}]}, RequestRefused),
        (429, {}, RateLimited),
        (429, {"error": {"code": "insufficient_quota", "message": "exceeded"}}, OutOfCredit),
        *((status, b"", ServerFailed) for status in (408, 409, 425, 500, 502, 503, 504, 529)),
        (200, b"<!DOCTYPE html><html></html>", BadReply),
        (200, b'{"choices": [{"message": {"cont', BadReply),
        (200, b"", BadReply),
        (200, b"\xff\xfe", BadReply),
        (200, [], BadReply),
        (200, {}, BadReply),
        (200, {"choices": None}, BadReply),
        (200, {"choices": [None]}, BadReply),
        (200, chat(finish_reason="error"), BadReply),
        (200, chat(message={"content": 3}), BadReply),
        (200, {"error": {"message": "overloaded"}}, ServerFailed),
        (200, {"error": "overloaded"}, ServerFailed),
        (200, {"error": {"code": 429, "message": "slow"}}, RateLimited),
        (200, {"error": {"code": "429", "message": "slow"}}, RateLimited),
        (200, {"error": {"code": "rate_limit_exceeded"}}, RateLimited),
        (200, {"error": {"code": "insufficient_quota"}}, OutOfCredit),
        (200, {"error": {"code": "invalid_api_key"}}, AuthFailed),
        (200, chat(error={"code": 502, "message": "upstream"}), ServerFailed),
        (200, [{"error": {"code": 400, "message": "bad"}}], RequestRefused),
        (204, b"", BadReply),
    ],
)
def test_failures(status: int, body: object, kind: type[LLMError]):
    assert failure(status, body).error is kind


def test_what_the_server_said_is_kept_short_and_on_one_line():
    assert failure(400, {"error": {"message": "a\n\x1b[2J b"}}).said == "a [2J b"
    assert len(failure(400, {"error": {"message": "x" * 10_000}}).said) == 500
    assert "HTML" in failure(502, b"<html><body>Bad gateway</body></html>").said
    detail = [{"loc": ["body", "seed"], "msg": "Extra", "type": "e", "input": "secret text"}]
    assert failure(422, {"detail": detail}).said == "body.seed: Extra (e)"


@given(
    st.integers(200, 599),
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["error", "choices", "message", "content", "code", "usage", "detail", "loc"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=10,
    ).map(lambda value: json.dumps(value).encode()),
)
def test_any_reply_is_a_completion_or_a_failure(status: int, body: bytes):
    assert isinstance(classify(status, {}, body, 0.0), Completion | Failure)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        (
            "max_tokens",
            {
                "message": "Unsupported parameter: 'max_tokens' is not supported with this model. "
                "Use 'max_completion_tokens' instead.",
                "param": "max_tokens",
                "code": "unsupported_parameter",
            },
        ),
        (
            "temperature",
            {
                "message": "Unsupported value: 'temperature' does not support 0 with this model.",
                "param": "temperature",
                "code": "unsupported_value",
            },
        ),
        ("seed", {"message": "Unrecognized request argument supplied: seed"}),
        ("response_format", {"message": "This response_format type is unavailable now"}),
        (
            "response_format",
            {"message": "Invalid schema for response_format 'x'", "param": "response_format"},
        ),
        (
            "response_format",
            {"message": "The provided JSON schema contains features not supported by xgrammar."},
        ),
        ("response_format", {"message": "failed to parse grammar"}),
        ("response_format", {"message": "Invalid grammar specification: unknown rule"}),
        ("response_format", {"message": "guided decoding is not enabled"}),
        ("response_format", {"message": "Constrained generation needs another backend"}),
        ("system", {"message": "System role not supported"}),
        (None, {"message": "max_tokens is too large: 99999", "param": "max_tokens"}),
        (None, {"message": "temperature must be at most 1", "param": "temperature"}),
        (None, {"message": "Unknown model"}),
        (None, {"message": "maximum context length is 4096 tokens"}),
    ],
)
def test_refused_parameters_are_recognised(name: str | None, body: dict):
    assert refused(BODY, failure(400, {"error": body})) == name


def test_refused_parameters_of_fastapi_servers():
    extra = {"loc": ["body", "seed"], "msg": "Extra inputs are not permitted", "type": "x"}
    assert refused(BODY, failure(422, {"detail": [extra]})) == "seed"
    unexpected = {"detail": "Unexpected fields in the request: {'seed'}"}
    assert refused(BODY, failure(422, unexpected)) == "seed"


def test_a_grammar_that_fails_inside_the_server_is_refused_too():
    for status in (500, 501):
        said = failure(status, {"error": {"message": "Failed to compile grammar"}})
        assert refused(BODY, said) == "response_format"
        assert refused(adapt(BODY, {"response_format": 2}), said) is None
    assert refused(BODY, failure(503, {"error": {"message": "grammar"}})) is None


def test_only_what_was_sent_can_be_refused():
    said = failure(400, {"error": {"message": "Unsupported parameter: 'seed'"}})
    assert refused(adapt(BODY, {"seed": 1}), said) is None
    assert refused(BODY, failure(500, {"error": {"message": "Unsupported: seed"}})) is None


def test_every_step_of_every_ladder_changes_the_body():
    for name, steps in LADDERS.items():
        bodies = [adapt(BODY, {name: level}) for level in range(len(steps))]
        assert bodies[0] == BODY
        assert all(a != b for a, b in pairwise(bodies))
    assert adapt(BODY, {"max_tokens": 1})["max_completion_tokens"] == CONFIG.max_output_tokens
    assert "max_tokens" not in adapt(BODY, {"max_tokens": 1})
    assert adapt(BODY, {"system": 1})["messages"] == [{"role": "user", "content": "s\n\nu"}]
    assert BODY["messages"][0]["role"] == "system"


def test_the_key_covers_the_whole_request():
    other = Message("user", "v")
    requests = [
        REQUEST,
        Request(REQUEST.messages, schemas.EXPLANATION, sample=1),
        Request(REQUEST.messages, schemas.TEXTS),
        Request((*REQUEST.messages, other), schemas.EXPLANATION),
        Request(REQUEST.messages, schemas.EXPLANATION, max_output_tokens=5),
        Request(REQUEST.messages, schemas.EXPLANATION, temperature=0.5),
    ]
    configs = [
        CONFIG,
        LLMConfig("http://127.0.0.1:2/v1", "m", seed=1),
        LLMConfig("http://127.0.0.1:1/v1", "n", seed=1),
        LLMConfig("http://127.0.0.1:1/v1", "m", seed=2),
    ]
    keys = {request.key(config) for request in requests for config in configs}
    assert len(keys) == len(requests) * len(configs)
    same = Request(REQUEST.messages, schemas.EXPLANATION, label="other")
    assert same.key(LLMConfig("http://127.0.0.1:1/v1/", "m", seed=1, rpm=3)) == REQUEST.key(CONFIG)


def test_lone_surrogates_can_be_sent():
    body = Request((Message("user", "a\ud800"),), schemas.TEXT).body(CONFIG)
    assert body["messages"][0]["content"] == "a\ufffd"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"base_url": "example.org/v1"}, "example.org/v1"),
        ({"base_url": "ftp://example.org"}, "ftp"),
        ({"base_url": "http://[bad"}, "base URL"),
        ({"base_url": ""}, "base URL"),
        ({"model": " "}, "model"),
        ({"concurrency": 0}, "concurrency"),
        ({"rpm": 0}, "rpm"),
        ({"tpm": -1}, "tpm"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"temperature": float("inf")}, "temperature"),
        ({"max_calls": -1}, "max_calls"),
        ({"max_cost": 1.0}, "prices"),
        ({"prices": Prices(-1, 1)}, "price"),
    ],
)
def test_bad_configs(changes: dict, named: str):
    given = {"base_url": "http://127.0.0.1:1/v1", "model": "m"} | changes
    refuses(lambda: LLMConfig(**given), named)


@pytest.mark.parametrize(
    "url",
    [
        "https://user:hunter2hunter2@example.org/v1",
        "https://hunter2hunter2@example.org/v1",
        "https://example.org/v1?key=hunter2hunter2",
        "https://example.org/v1#hunter2hunter2",
    ],
)
def test_a_url_that_may_hold_a_key_is_refused_and_not_shown(url: str):
    assert "hunter2" not in refuses(lambda: LLMConfig(url, "m"), "example.org")


def test_urls():
    assert LLMConfig("http://h/v1/", "m").url == "http://h/v1/chat/completions"
    assert LLMConfig("http://h/v1/chat/completions", "m").url == "http://h/v1/chat/completions"
    loopback = ["http://127.0.0.1:8000/v1", "http://localhost/v1", "http://[::1]:1/v1"]
    assert all(LLMConfig(url, "m").is_loopback for url in loopback)
    assert not LLMConfig("https://api.example.org/v1", "m").is_loopback


def _events(*chunks: object, end: bytes = b"data: [DONE]\n\n") -> bytes:
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + end


def _delta(finish: str | None = None, **delta: str) -> dict:
    return {"model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def test_a_stream_that_nobody_asked_for_is_read_if_it_is_whole():
    chunks = [_delta(role="assistant"), _delta(content='{"a"'), _delta(content=": 1}")]
    usage = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}
    found = classify(200, {}, _events(*chunks, _delta("stop"), usage), 0.0)
    assert found == Completion('{"a": 1}', "stop", 7, 3, "m")
    # Cut before the finish reason, or within a chunk.
    for body in (_events(*chunks), _events(*chunks, end=b'data: {"cho')):
        broken = classify(200, {}, body, 0.0)
        assert isinstance(broken, Failure)
        assert broken.error is BadReply
    failed = classify(200, {}, _events(*chunks, {"error": {"message": "overloaded"}}), 0.0)
    assert isinstance(failed, Failure)
    assert failed.error is ServerFailed
