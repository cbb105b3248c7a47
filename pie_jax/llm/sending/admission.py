"""The line before the server: rate limits, concurrency and budget, in that order."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from pie_jax.llm.config import LLMConfig
from pie_jax.llm.errors import BudgetSpent
from pie_jax.llm.request import Request, clean
from pie_jax.llm.sending.limits import Entry, RateLimits
from pie_jax.llm.sending.stopping import StopSignal
from pie_jax.llm.sending.timing import Timing
from pie_jax.llm.store.cache import LLMStore
from pie_jax.llm.store.usage import Budget, NewCall
from pie_jax.llm.tokens import prompt_tokens

# How often a call that does not fit beside those under way asks again.
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Call:
    """A call that may go out: its number in the records, its tokens in the window of tpm."""

    number: int
    entry: Entry | None


class Admission:
    """Lets one client's calls out as its limits and the file's budget allow.

    `enter` serves one caller at a time. It sleeps for the limits before it takes a slot, so
    that a slot is only ever held by a call that is out.
    """

    def __init__(
        self, config: LLMConfig, store: LLMStore, name: str, timing: Timing, stop: StopSignal
    ):
        self.limits = RateLimits(config.rpm, config.tpm, timing)
        self._config, self._store, self._name = config, store, name
        self._timing, self._stop = timing, stop
        self._slots = asyncio.Semaphore(config.concurrency)
        self._budget = Budget.of(config)

    async def enter(self, request: Request, key: str) -> Call:
        """Return when the call may go out, with a slot that `leave` gives back.

        Raises `Stopped`, for instance when the budget has no room for it.
        """
        new = self._new_call(request, key)
        while True:
            await self.limits.wait(new.tokens, self._stop.sleep)
            call = await self._take_slot(new)
            if isinstance(call, Call):
                return call
            if call:
                await self._await_room(call)

    async def _take_slot(self, new: NewCall) -> Call | str:
        """Return a call with a slot, or the budget in its way; "" if it has to wait again."""
        await self._slots.acquire()
        try:
            self._stop.check()
            # While it waited for the slot, a reply may have asked for a pause.
            must_wait = self.limits.delay(new.tokens) > 0
            number = "" if must_wait else self._store.ledger.begin(new, self._budget)
        except BaseException:
            self._slots.release()
            raise
        if isinstance(number, str):
            self._slots.release()
            return number
        self._store.under_way += 1
        return Call(number, self.limits.sent(new.tokens))

    def leave(self) -> None:
        """Give the slot back."""
        self._slots.release()
        self._store.under_way -= 1

    def _new_call(self, request: Request, key: str) -> NewCall:
        """Return the record of a call, with the most that it may take."""
        config = self._config
        prompt, limit = prompt_tokens(request), request.output_limit(config)
        return NewCall(
            at=self._timing.wall(),
            client=self._name,
            label=clean(request.label),
            key=key,
            base_url=config.base_url,
            model=config.model,
            tokens=prompt + limit,
            cost=config.cost(prompt, limit) or 0.0,
        )

    async def _await_room(self, limit: str) -> None:
        """Wait while calls under way may turn out to take less than they hold; else stop."""
        if self._store.under_way:
            await self._stop.sleep(_POLL_SECONDS)
            return
        totals = self._store.ledger.totals()
        raise BudgetSpent(
            f"The next call does not fit into {limit}: {totals.calls} calls, {totals.tokens} "
            f"tokens, cost {totals.cost:.4f} so far in {self._store.path}; all answers are kept: "
            "raise the limit and repeat the command to go on."
        )
