"""A chat completion that a server streams although it was asked not to."""

from __future__ import annotations

import json
from typing import Any


def join_events(body: bytes) -> dict[str, Any] | None:
    """Return a whole stream of chunks as the completion they make up; its error, if it has one.

    None for what is no such stream, or one that breaks off before its finish reason.
    """
    whole: dict[str, Any] = {}
    parts: list[str] = []
    finish = None
    for line in body.split(b"\n"):
        if not line.startswith(b"data:") or line[5:].strip() == b"[DONE]":
            continue
        try:
            chunk = json.loads(line[5:])
        except (ValueError, RecursionError):
            return None
        if not isinstance(chunk, dict):
            return None
        if chunk.get("error"):
            return chunk
        whole |= {name: chunk[name] for name in ("model", "usage") if chunk.get(name)}
        choices = chunk.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else {}
        delta = choice.get("delta") if isinstance(choice, dict) else None
        if isinstance(delta, dict) and isinstance(delta.get("content"), str):
            parts.append(delta["content"])
        if isinstance(choice, dict):
            finish = choice.get("finish_reason") or finish
    if finish is None:
        return None
    message = {"role": "assistant", "content": "".join(parts)}
    return {**whole, "choices": [{"index": 0, "message": message, "finish_reason": finish}]}
