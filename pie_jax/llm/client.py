"""The client: questions in, validated replies out, nothing paid for twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sized
from types import TracebackType
from typing import TypeVar

from pie_jax.llm.config import LLMConfig
from pie_jax.llm.errors import (
    ClientClosed,
    ContentFiltered,
    InvalidReply,
    LLMError,
    RequestFailed,
    Stopped,
    Truncated,
)
from pie_jax.llm.failures import Failures
from pie_jax.llm.parsing.wire import WireError
from pie_jax.llm.request import Answer, Outcome, Reply, Request, Usage
from pie_jax.llm.sending.sender import Sender
from pie_jax.llm.sending.timing import Timing
from pie_jax.llm.store.cache import LLMStore

T = TypeVar("T")
Progress = Callable[[int, int, str], None]

# Calls that are out when the client closes are paid for; they may take this long to arrive.
_CLOSING_SECONDS = 10.0


class LLMClient:
    """A client of one server and model (an explainer, a judge); use it as a context manager.

    Clients that share a `store` share answers and budgets. `name` marks its usage records.
    Raises `InputError` for a key that cannot be sent.
    """

    def __init__(
        self,
        config: LLMConfig,
        store: LLMStore,
        *,
        name: str = "llm",
        timing: Timing | None = None,
    ):
        self.config, self.store = config, store
        self._sender = Sender(config, store, name, timing or Timing())
        self.failures = Failures()
        self._tasks: set[asyncio.Task[Answer]] = set()

    def __repr__(self) -> str:
        return f"LLMClient({self.config.model!r} at {self.config.base_url!r})"

    @property
    def counts(self) -> Counter[str]:
        """How many calls were `sent` and `retried`, answers `cached`, replies `repaired`."""
        return self._sender.counts

    @property
    def notes(self) -> list[str]:
        """A sentence for each parameter that the model was found to refuse."""
        return list(self._sender.notes)

    async def complete(self, request: Request[T]) -> Reply[T]:
        """Return the validated reply to a request, from the store if it was answered before.

        Raises `RequestFailed` if this request has no usable answer, `Stopped` if no more can be
        sent. Equal requests under way at once are sent once.
        """
        try:
            return await self._validated(request)
        except RequestFailed as error:
            self.failures.note(error, self.config)
            raise

    async def _validated(self, request: Request[T]) -> Reply[T]:
        answer = await self._answer(request)
        try:
            return _reply(request.format.parse(_finished(answer, self.config)), [answer])
        except WireError as error:
            reason = str(error)
        self.counts["repaired"] += 1
        second = await self._answer(request.repair(answer.text, reason))
        try:
            return _reply(request.format.parse(_finished(second, self.config)), [answer, second])
        except WireError as error:
            reason = str(error)
        raise InvalidReply(
            f"{self.config.model} gave no usable `{request.format.name}` in two replies: {reason}.",
            (answer.text, second.text),
            _sum_costs([answer, second]),
        )

    async def complete_many(
        self,
        requests: Iterable[Request[T]],
        *,
        progress: Progress | None = None,
        total: int | None = None,
    ) -> AsyncIterator[Outcome[T]]:
        """Yield what becomes of each request as it finishes, in any order.

        `requests` may be lazy; it is read as places get free. A request's own failure is an
        outcome with its error. When no more can be sent, the calls that are out still arrive,
        then `Stopped` is raised.
        """
        source = enumerate(requests)
        total = total or (len(requests) if isinstance(requests, Sized) else 0)
        # More than slots, so that those who wait for a retry do not leave slots empty.
        places = 4 * self.config.concurrency + 16
        pending: set[asyncio.Task[Outcome[T]]] = set()
        done, stopped = 0, None
        try:
            while True:
                while stopped is None and len(pending) < places:
                    item = next(source, None)
                    if item is None:
                        break
                    pending.add(asyncio.create_task(self._outcome(*item)))
                if not pending:
                    break
                finished, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for outcome in [task.result() for task in finished]:
                    if isinstance(outcome.error, Stopped):
                        stopped = stopped or outcome.error
                        continue
                    done += 1
                    if progress is not None:
                        progress(done, total, "calls")
                    yield outcome
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        if stopped is not None:
            raise stopped

    async def _outcome(self, index: int, request: Request[T]) -> Outcome[T]:
        try:
            return Outcome(index, request, reply=await self.complete(request))
        except LLMError as error:
            return Outcome(index, request, error=error)

    async def _answer(self, request: Request) -> Answer:
        """Return the answer to a request: stored, on its way already, or asked for now."""
        key = request.key(self.config)
        while True:
            stored = self.store.answer(key)
            if stored is not None:
                self.counts["cached"] += 1
                return stored
            task = self.store.in_flight.get(key)
            if task is None:
                task = self._start(request, key)
            if task in self._tasks:
                return await asyncio.shield(task)
            # Another client of this store asks the same; if that fails, it is this one's turn.
            await asyncio.wait({task})

    def _start(self, request: Request, key: str) -> asyncio.Task[Answer]:
        # Its own task: a caller that gives up takes nothing from others who wait for it.
        task = asyncio.create_task(self._sender.send(request, key))
        self.store.in_flight[key] = task
        self._tasks.add(task)
        task.add_done_callback(lambda ended: self._forget(key, ended))
        return task

    def _forget(self, key: str, task: asyncio.Task[Answer]) -> None:
        self._tasks.discard(task)
        self.store.in_flight.pop(key, None)
        if not task.cancelled():
            task.exception()  # it may be that nobody waits any more

    async def close(self) -> None:
        """Send nothing more, let the calls that are out arrive, and close the connections."""
        self._sender.stop.set(ClientClosed("The LLM client was closed."))
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=_CLOSING_SECONDS)
        for task in set(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._sender.close()

    async def __aenter__(self) -> LLMClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


def _finished(answer: Answer, config: LLMConfig) -> str:
    """Return the text of an answer that ended by itself."""
    if answer.finish_reason == "length":
        raise Truncated(
            f"{config.model} was cut off after {answer.usage.completion_tokens} tokens; give it a "
            "larger max_output_tokens."
        )
    if answer.finish_reason == "content_filter":
        raise ContentFiltered(f"{config.model} declined to answer a request (content_filter).")
    return answer.text


def _reply(value: T, answers: list[Answer]) -> Reply[T]:
    last = answers[-1]
    usage = Usage(
        sum(answer.usage.prompt_tokens for answer in answers),
        sum(answer.usage.completion_tokens for answer in answers),
        any(answer.usage.estimated for answer in answers),
    )
    return Reply(
        value,
        last.text,
        last.model,
        usage,
        _sum_costs(answers),
        cached=all(answer.cached for answer in answers),
        repaired=len(answers) > 1,
        key=answers[0].key,
    )


def _sum_costs(answers: list[Answer]) -> float | None:
    costs = [answer.cost for answer in answers if answer.cost is not None]
    return sum(costs) if len(costs) == len(answers) else None
