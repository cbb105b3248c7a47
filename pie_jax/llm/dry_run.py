"""Cost of interpreting and evaluating, by the same code with a chat that sends nothing."""

from __future__ import annotations

import json
from typing import TypeVar

from pie_jax.llm import Estimate, LLMConfig, LLMStore, Reply, Request, Usage, estimate

T = TypeVar("T")


class DryChat:
    """A chat that counts. Its replies are made up so that as much is asked as can be: no text is
    rated 2, so every second round takes place.

    `total` is the estimate so far. What steering asks depends on scores and is not foreseen.
    """

    def __init__(self, config: LLMConfig, store: LLMStore | None = None):
        self.config, self.total = config, Estimate()
        self._store, self._seen = store, set[str]()

    async def complete(self, request: Request[T]) -> Reply[T]:
        """Count a request and make up its reply."""
        key = request.key(self.config)
        if key not in self._seen:
            self._seen.add(key)
            self.total += estimate([request], self.config, self._store)
        text = json.dumps(_made_up(request))
        usage = Usage(0, 0, estimated=True)
        value = request.format.parse(text)
        return Reply(value, text, self.config.model, usage, 0.0, True, False, key)


def _made_up(request: Request) -> dict:
    name = request.format.name
    if name == "ratings":
        ids = getattr(request.format.parse, "keywords", {}).get("asked", ())
        return {"ratings": [{"id": i, "rating": 0} for i in ids]}
    if name == "matches":
        return {"matches": []}
    if name == "texts":
        return {"texts": [f"text {request.sample}"]}
    return {"explanation": "an explanation of usual length, which names tokens and contexts " * 2}
