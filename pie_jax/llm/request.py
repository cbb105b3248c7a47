"""Requests, replies, and the hash that tells one request from another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Literal, TypeVar

from pie_jax.llm.config import LLMConfig
from pie_jax.llm.errors import LLMError

T = TypeVar("T")

# Part of every key: raise it when a request's meaning changes, and no old answer fits it.
_KEY_VERSION = 1
# As much of an unusable reply as its repair attempt shows again.
_SHOWN = 4000


@dataclass(frozen=True)
class Message:
    """One message of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class ReplyFormat(Generic[T]):
    """A form of reply: its JSON schema, words that ask for it, and how it is read.

    `parse` returns the value or raises `wire.WireError`; without a `schema` the reply is text.
    """

    name: str
    schema: Mapping[str, Any] | None
    instructions: str
    parse: Callable[[str], T]


@dataclass(frozen=True)
class Request(Generic[T]):
    """One question. `label` is for the usage records and no part of the question.

    Equal requests are one and cost once; to draw several answers, number them by `sample`
    (which is added to the seed, if there is one).
    """

    messages: tuple[Message, ...]
    format: ReplyFormat[T]
    sample: int = 0
    max_output_tokens: int | None = None
    temperature: float | None = None
    label: str = field(default="", compare=False)

    def body(self, config: LLMConfig) -> dict[str, Any]:
        """Return the body to POST, before anything is dropped that the model refuses."""
        temperature = config.temperature if self.temperature is None else self.temperature
        body: dict[str, Any] = {
            "model": config.model,
            "messages": [{"role": m.role, "content": clean(m.content)} for m in self.messages],
            "stream": False,
            "max_tokens": self.output_limit(config),
        }
        if temperature is not None:
            body["temperature"] = temperature
        if config.seed is not None:
            body["seed"] = config.seed + self.sample
        if self.format.schema is not None:
            schema = {"name": self.format.name, "strict": True, "schema": self.format.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    def output_limit(self, config: LLMConfig) -> int:
        """Return the most tokens that the answer may have."""
        return self.max_output_tokens or config.max_output_tokens

    def key(self, config: LLMConfig) -> str:
        """Return the SHA-256 of the whole request: server, body and sample."""
        whole = {
            "version": _KEY_VERSION,
            "url": config.url,
            "body": self.body(config),
            "sample": self.sample,
        }
        return hashlib.sha256(encode(whole)).hexdigest()

    def repair(self, reply: str, reason: str) -> Request[T]:
        """Return the request that shows an unusable reply again and asks for a usable one."""
        # Some chat templates take no empty message, and none twice from one side.
        shown = reply[:_SHOWN].strip() or "(empty reply)"
        ask = f"This reply cannot be used: {reason}. {self.format.instructions}"
        messages = (*self.messages, Message("assistant", shown), Message("user", ask))
        return replace(self, messages=messages)


@dataclass(frozen=True)
class Usage:
    """Tokens of an answer; `estimated` where the server did not count them."""

    prompt_tokens: int
    completion_tokens: int
    estimated: bool = False

    @property
    def total(self) -> int:
        """Tokens of prompt and completion."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Answer:
    """A completion as it stands in the store, whatever its text is worth."""

    key: str
    text: str
    finish_reason: str
    usage: Usage
    cost: float | None
    model: str
    cached: bool = False


@dataclass(frozen=True)
class Reply(Generic[T]):
    """A usable answer: `value` as the request's format reads it.

    `model` is what the server says it used, `cached` that nothing was sent now; usage and cost
    (None without prices) are those of the calls that made the answer, a repair included.
    """

    value: T
    text: str
    model: str
    usage: Usage
    cost: float | None
    cached: bool
    repaired: bool
    key: str


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What became of request number `index`: a reply, or the error that it failed with."""

    index: int
    request: Request[T]
    reply: Reply[T] | None = None
    error: LLMError | None = None


def encode(value: Any) -> bytes:
    """Return the canonical JSON of a value: sorted keys, ASCII, no spaces."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return text.encode("ascii")


def clean(text: str) -> str:
    """Return the text with lone surrogates replaced, which no UTF-8 can hold."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
