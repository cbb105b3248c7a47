"""Reading what a server sent back: a completion, or which failure it is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
from pie_jax.llm.parsing.event_stream import join_events
from pie_jax.llm.request import clean
from pie_jax.llm.sending.retry import read_retry_after

_SAID = 500
_RETRIED = {408, 409, 425}
_NO_CREDIT = re.compile(r"insufficient.?(quota|balance|credit|funds)|billing|exceeded your current")
_FILTERED = re.compile(r"content.?(filter|management|policy)|moderation|flagged")
_AUTH = re.compile(r"invalid.?api.?key|authentication|unauthorized|permission")
_TOO_MANY = re.compile(r"rate.?limit|too many requests")


@dataclass(frozen=True)
class Completion:
    """What a chat completion says; token counts are None where the server gave none."""

    text: str
    finish_reason: str
    prompt_tokens: int | None
    completion_tokens: int | None
    model: str


@dataclass(frozen=True)
class Failure:
    """A failed attempt: its class, the server's words, and the parameter it complained of."""

    error: type[LLMError]
    said: str = ""
    status: int | None = None
    parameter: str = ""
    code: str = ""
    retry_after: float | None = None


def classify(
    status: int, headers: Mapping[str, str], body: bytes, now: float
) -> Completion | Failure:
    """Return what a reply is. `headers` have lower-case names; `now` is Unix time."""
    parsed = _parse(body)
    if status == 200:
        return _completion(parsed, body)
    if 300 <= status < 400:
        return Failure(NotFound, f"redirected to {headers.get('location', '?')[:_SAID]}", status)
    failure = _failure(status, parsed, body)
    wait = read_retry_after(headers, now)
    return Failure(
        failure.error, failure.said, status, failure.parameter, failure.code, retry_after=wait
    )


def _parse(body: bytes) -> Any:
    if body.lstrip()[:5] == b"data:":
        return join_events(body)
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _completion(parsed: Any, body: bytes) -> Completion | Failure:
    if not isinstance(parsed, dict):
        return _gemini_error(parsed) or Failure(BadReply, _not_json(body), 200)
    choices = parsed.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    choice = choice if isinstance(choice, dict) else {}
    if error := parsed.get("error") or choice.get("error"):
        return _error_body({"error": error}, body)
    message = choice.get("message")
    if not isinstance(message, dict):
        return Failure(BadReply, "a JSON that is no chat completion", 200)
    return _read_choice(parsed, choice, message)


def _read_choice(parsed: dict, choice: dict, message: dict) -> Completion | Failure:
    text, refusal = _text(message.get("content")), message.get("refusal")
    finish = choice.get("finish_reason")
    finish = finish if isinstance(finish, str) and finish else "stop"
    if finish == "error" or text is None:
        return Failure(BadReply, "a chat completion without text", 200)
    if not text and isinstance(refusal, str) and refusal:
        text, finish = refusal, "content_filter"
    usage = parsed.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    model = parsed.get("model")
    return Completion(
        clean(text),
        clean(finish),
        _count(usage.get("prompt_tokens")),
        _count(usage.get("completion_tokens")),
        clean(model) if isinstance(model, str) else "",
    )


def _text(content: Any) -> str | None:
    """Return a message's text: a string, a list of parts, or nothing at all."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        return "".join(part for part in parts if isinstance(part, str))
    return None


def _count(value: Any) -> int | None:
    # SQLite holds 64 bits.
    valid = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53
    return value if valid else None


def _error_body(parsed: Any, body: bytes) -> Failure:
    """Return the failure of an error that came with HTTP 200."""
    code = parsed["error"].get("code") if isinstance(parsed["error"], dict) else None
    number = code if isinstance(code, int) and not isinstance(code, bool) else 0
    if isinstance(code, str) and code.isascii() and code.isdigit():
        number = int(code[:4])
    if 400 <= number < 600:
        return _failure(number, parsed, body)
    failure = _failure(500, parsed, body)
    words = f"{failure.code} {failure.said}".lower()
    for pattern, error in (
        (_NO_CREDIT, OutOfCredit),
        (_TOO_MANY, RateLimited),
        (_AUTH, AuthFailed),
    ):
        if pattern.search(words):
            return Failure(error, failure.said, 200, failure.parameter, failure.code)
    return Failure(ServerFailed, failure.said, 200, failure.parameter, failure.code)


def _gemini_error(parsed: Any) -> Failure | None:
    """Return the failure of an error in a list, as some servers send it."""
    if isinstance(parsed, list) and parsed and isinstance(parsed[0], dict) and "error" in parsed[0]:
        return _error_body({"error": parsed[0]["error"]}, b"")
    return None


def _failure(status: int, parsed: Any, body: bytes) -> Failure:
    said, code, parameter = _facts(parsed)
    if not said:
        said = _not_json(body) if parsed is None else ""
    words = f"{code} {said}".lower()
    return Failure(_error_class(status, words), _one_line(said), status, parameter, code)


def _error_class(status: int, words: str) -> type[LLMError]:
    if status == 402 or (status == 429 and _NO_CREDIT.search(words)):
        return OutOfCredit
    if status in (400, 403) and _FILTERED.search(words):
        return ContentFiltered
    if status in (401, 403):
        return AuthFailed
    if status == 404:
        return NotFound
    if status == 429:
        return RateLimited
    if status in _RETRIED or status >= 500:
        return ServerFailed
    return RequestRefused if status >= 400 else BadReply


def _facts(parsed: Any) -> tuple[str, str, str]:
    """Return message, code with type, and parameter of an error body, in whatever shape."""
    if isinstance(parsed, list) and parsed:
        parsed = parsed[0]
    if not isinstance(parsed, dict):
        return (parsed, "", "") if isinstance(parsed, str) else ("", "", "")
    error = parsed.get("error") or parsed.get("detail") or parsed
    if isinstance(error, list):
        return "; ".join(_complaint(item) for item in error), "", ""
    if not isinstance(error, dict):
        return str(error), "", ""
    code = " ".join(str(error[name]) for name in ("code", "type") if error.get(name))
    return str(error.get("message") or ""), code, str(error.get("param") or "")


def _complaint(item: Any) -> str:
    """Return where and what of one entry of FastAPI's `detail`; never the input it repeats."""
    if not isinstance(item, dict):
        return str(item)
    where = item.get("loc")
    where = ".".join(map(str, where)) if isinstance(where, list) else ""
    return f"{where}: {item.get('msg', '')} ({item.get('type', '')})"


def _not_json(body: bytes) -> str:
    start = body[:200].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "HTML instead of JSON"
    if start[:1] in (b"{", b"["):
        return "a JSON that breaks off"
    return "no JSON" if start else "an empty body"


def _one_line(text: str) -> str:
    line = " ".join("".join(c if c.isprintable() else " " for c in clean(text)).split())
    return line if len(line) <= _SAID else line[: _SAID - 1] + "…"
