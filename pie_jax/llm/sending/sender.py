"""Sending one request until it is answered."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import ExitStack

from pie_jax.llm.config import LLMConfig
from pie_jax.llm.errors import (
    RequestFailed,
    RequestRefused,
    Stopped,
    Unreachable,
    WaitTooLong,
)
from pie_jax.llm.parsing.replies import Completion, Failure
from pie_jax.llm.request import Answer, Request, Usage, encode
from pie_jax.llm.sending import parameters
from pie_jax.llm.sending.admission import Admission, Call
from pie_jax.llm.sending.retry import backoff
from pie_jax.llm.sending.stopping import StopSignal
from pie_jax.llm.sending.timing import Timing
from pie_jax.llm.sending.transport import Transport
from pie_jax.llm.sentences import explain
from pie_jax.llm.store.cache import LLMStore
from pie_jax.llm.store.usage import Ended
from pie_jax.llm.tokens import approximate_tokens, prompt_tokens

# A server that never answered is given up sooner than one that went away.
_FIRST_CONTACT_ATTEMPTS = 3


class Sender:
    """Attempts, retries and refused parameters of one client."""

    def __init__(self, config: LLMConfig, store: LLMStore, name: str, timing: Timing):
        self.config, self.counts, self.notes = config, Counter[str](), list[str]()
        self.stop = StopSignal(timing.sleep)
        self._store, self._timing = store, timing
        self._transport = Transport(config, timing.wall)
        self._admission = Admission(config, store, name, timing, self.stop)
        self._levels = store.parameters(config)
        # Until the server has answered one request, the line moves by one exchange at a time: a
        # wrong key, a wrong URL or a refused parameter shows itself once, not once per slot.
        self._line = asyncio.Lock()
        self._answered = False

    async def send(self, request: Request, key: str) -> Answer:
        """Return the stored answer, after as many attempts as it takes; raise an `LLMError`."""
        try:
            return await self._until_answered(request, key)
        except Stopped as error:
            self.stop.set(error)
            raise

    async def _until_answered(self, request: Request, key: str) -> Answer:
        body = request.body(self.config)
        attempts = 0
        while True:
            sent, outcome = await self._attempt(request, key, body)
            if isinstance(outcome, Answer):
                return outcome
            if self._learn(body, sent, outcome):
                continue
            attempts += 1
            if not outcome.error.retriable or attempts >= self._most_attempts(outcome):
                key_facts = self._transport.key
                raise outcome.error(explain(outcome, self.config, key_facts, attempts))
            self.counts["retried"] += 1
            await self.stop.sleep(self._delay(outcome, attempts))

    def _most_attempts(self, failure: Failure) -> int:
        if failure.error is Unreachable and not self._answered:
            return min(self.config.max_attempts, _FIRST_CONTACT_ATTEMPTS)
        return self.config.max_attempts

    def _delay(self, failure: Failure, attempts: int) -> float:
        config, wait = self.config, failure.retry_after
        if wait is not None and wait > config.max_wait:
            raise WaitTooLong(
                f"{config.base_url} asks to wait {wait:.0f} s (HTTP {failure.status}), more than "
                f"the {config.max_wait:.0f} s allowed; repeat the command then to go on."
            )
        return backoff(
            attempts,
            base=config.backoff_base,
            cap=config.backoff_cap,
            random=self._timing.random,
            retry_after=wait,
        )

    def _learn(self, body: dict, sent: dict, failure: Failure) -> bool:
        """Step down for a parameter that the model refuses; say whether there is one."""
        name = parameters.refused(sent, failure)
        if name is None:
            return False
        if parameters.adapt(body, self._levels) != sent:
            return True  # another request, out at the same time, has taught it
        level = self._levels.get(name, 0) + 1
        if level >= len(parameters.LADDERS[name]):
            return False
        note = parameters.note(self.config.model, name, level, failure)
        self._store.learn(self.config, name, level, note)
        self._levels[name] = level
        self.notes.append(note)
        return True

    async def _attempt(
        self, request: Request, key: str, body: dict
    ) -> tuple[dict, Answer | Failure]:
        """Make one exchange when the limits allow it; return what was sent and what came of it."""
        await self._line.acquire()
        with ExitStack() as line:
            line.callback(self._line.release)
            call = await self._admission.enter(request, key)
            if self._answered:
                line.close()
            # Not before: those ahead in the line may have found out what the model refuses.
            sent = parameters.adapt(body, self._levels)
            return sent, await self._exchange(request, key, encode(sent), call)

    async def _exchange(
        self, request: Request, key: str, body: bytes, call: Call
    ) -> Answer | Failure:
        self.counts["sent"] += 1
        started = self._timing.monotonic()
        result: Completion | Failure | None = None
        try:
            result = await self._transport.post(body)
        finally:
            self._admission.leave()
            latency = self._timing.monotonic() - started
            if result is None:  # cancelled: it may have been charged
                self._store.ledger.end(
                    call.number, Ended("cancelled", latency, charge_unknown=True)
                )
        # From here to the stored answer nothing awaits, so nothing can come between.
        if isinstance(result, Completion):
            return self._keep(request, key, call, result, latency)
        self._record(call, result, latency)
        return result

    def _keep(
        self, request: Request, key: str, call: Call, completion: Completion, latency: float
    ) -> Answer:
        usage, finish = _usage(request, completion), completion.finish_reason
        cost = self.config.cost(usage.prompt_tokens, usage.completion_tokens)
        model = completion.model or self.config.model
        answer = Answer(key, completion.text, finish, usage, cost, model)
        status = finish if finish in ("length", "content_filter") else "ok"
        ended = Ended(status, latency, 200, usage=usage, cost=cost)
        self._store.keep(answer, request, self.config, call.number, ended)
        self._admission.limits.correct(call.entry, usage.total)
        self._answered = True
        return answer

    def _record(self, call: Call, failure: Failure, latency: float) -> None:
        kind, unknown = failure.error.kind, failure.error.charge_unknown
        detail = " ".join(part for part in (failure.code, failure.said) if part)
        ended = Ended(kind, latency, failure.status, detail, charge_unknown=unknown)
        self._store.ledger.end(call.number, ended)
        limits = self._admission.limits
        if not unknown:
            limits.correct(call.entry, 0)
        if failure.status == 429 and failure.retry_after is not None:
            limits.pause(min(failure.retry_after, self.config.max_wait))
        if issubclass(failure.error, RequestFailed) and failure.error is not RequestRefused:
            self._answered = True

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()


def _usage(request: Request, completion: Completion) -> Usage:
    """Return the tokens that the server counted, or a guess that says so."""
    prompt, output = completion.prompt_tokens, completion.completion_tokens
    return Usage(
        prompt_tokens(request) if prompt is None else prompt,
        approximate_tokens(completion.text) if output is None else output,
        estimated=prompt is None or output is None,
    )
