"""Parameters that a model refuses, learned once and then left out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pie_jax.llm.errors import RequestRefused, ServerFailed
from pie_jax.llm.parsing.replies import Failure

# How each thing is sent at first, and what is tried in turn when that is refused.
LADDERS: dict[str, tuple[str, ...]] = {
    # Every server knows max_tokens; some ignore the newer name, and then nothing bounds the cost.
    "max_tokens": ("max_tokens", "max_completion_tokens", "left out"),
    "response_format": ("json_schema", "json_object", "left out"),
    "temperature": ("a number", "left out"),
    "seed": ("a number", "left out"),
    "system": ("a message of its own", "part of the first user message"),
}

_REFUSAL = re.compile(
    r"unsupported|not (be )?support|n't support|unexpected|unknown|unrecogni[sz]ed|extra_forbidden"
    r"|extra (inputs?|fields?)|not (permitted|allowed|available|accepted)|unavailable|deprecated"
    r"|no longer|must alternate",
    re.IGNORECASE,
)
# What servers call the part of them that holds a reply to a form.
_FORMAT = re.compile(
    r"response.?format|json.?(schema|object|mode)|\bschemas?\b|structured.?(output|generation)"
    r"|grammar|guided|guidance|constrained|xgrammar|outlines|enforcer",
    re.IGNORECASE,
)
_ABOUT_FORMAT = (400, 422, 500, 501)
_SYSTEM = re.compile(r"system.{0,20}(role|message|prompt)|role.{0,20}system|must alternate", re.I)


def adapt(body: Mapping[str, Any], levels: Mapping[str, int]) -> dict[str, Any]:
    """Return a request's body as the model takes it, `levels` being its place on each ladder."""
    adapted = dict(body)
    for name, level in levels.items():
        step = LADDERS[name][level]
        if name == "system" and level:
            adapted["messages"] = _without_system(adapted["messages"])
        elif step == "left out":
            adapted.pop(name, None)
        elif step == "json_object" and name in adapted:
            adapted[name] = {"type": "json_object"}
        elif step == "max_completion_tokens" and name in adapted:
            adapted[step] = adapted.pop(name)
    return adapted


def refused(sent: Mapping[str, Any], failure: Failure) -> str | None:
    """Return the ladder that a failure asks to step down on, None if it is about something else.

    A value out of range (`max_tokens is too large`) is the caller's mistake, and nothing to drop.
    """
    words = f"{failure.code} {failure.said}"
    # A grammar that cannot be made is an inner error (500, 501) to some servers.
    of_format = failure.error in (RequestRefused, ServerFailed) and failure.status in _ABOUT_FORMAT
    if of_format and "response_format" in sent and _FORMAT.search(f"{failure.parameter} {words}"):
        return "response_format"
    if failure.error is not RequestRefused or failure.status not in (400, 422):
        return None
    if not _REFUSAL.search(words):
        return None
    for wire, name in _WIRE_NAMES.items():
        if wire in sent and (failure.parameter == wire or re.search(rf"\b{wire}\b", words)):
            return name
    has_system = any(message["role"] == "system" for message in sent["messages"])
    return "system" if has_system and _SYSTEM.search(words) else None


def note(model: str, name: str, level: int, failure: Failure) -> str:
    """Return the sentence that says what was refused and what is done instead."""
    step = LADDERS[name][level]
    instead = "is left out" if step == "left out" else f"is sent as {step}"
    return f"{model} refuses {name} as {LADDERS[name][level - 1]}, so it {instead}: {failure.said}"


_WIRE_NAMES = {
    "max_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "temperature": "temperature",
    "seed": "seed",
}


def _without_system(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return the messages with those of the system put before the first user message."""
    system = [message["content"] for message in messages if message["role"] == "system"]
    rest = [dict(message) for message in messages if message["role"] != "system"]
    if system and rest:
        rest[0]["content"] = "\n\n".join([*system, rest[0]["content"]])
    return rest
