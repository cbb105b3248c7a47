"""The part of an LLM client that explainers and judges use."""

from __future__ import annotations

from typing import Protocol, TypeVar

from pie_jax.llm import LLMConfig, Reply, Request

T = TypeVar("T")


class Chat(Protocol):
    """What is needed of `pie_jax.llm.LLMClient`."""

    config: LLMConfig

    async def complete(self, request: Request[T]) -> Reply[T]:
        """Return the validated reply, or raise `RequestFailed` or `Stopped`."""
        ...
