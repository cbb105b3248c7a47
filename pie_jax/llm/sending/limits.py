"""Requests and tokens per minute, in any window of one minute."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pie_jax.llm.sending.timing import Timing

# Sleeping for less than this could leave a clock where it was.
_SHORTEST_SLEEP = 0.001


@dataclass
class Entry:
    """An amount used at a time."""

    at: float
    amount: float
    counts: bool = True


class SlidingWindow:
    """At most `limit` within any `seconds`; times come from the caller.

    Stricter than a token bucket, which lets twice its limit through in its first minute.
    """

    def __init__(self, limit: float, seconds: float):
        self.limit, self.seconds = limit, seconds
        self._entries: deque[Entry] = deque()
        self._total = 0.0

    def delay(self, amount: float, now: float) -> float:
        """Return the seconds until `amount` fits; what exceeds the limit alone fits when empty."""
        self._expire(now)
        excess = self._total + amount - self.limit
        if excess <= 0 or not self._entries:
            return 0.0
        until = now
        for entry in self._entries:
            until = entry.at + self.seconds
            excess -= entry.amount
            if excess <= 0:
                break
        return max(until - now, _SHORTEST_SLEEP)

    def add(self, amount: float, now: float) -> Entry:
        """Count `amount` as used now."""
        entry = Entry(now, amount)
        self._entries.append(entry)
        self._total += amount
        return entry

    def correct(self, entry: Entry, amount: float) -> None:
        """Replace an estimate by what was used, if it still counts."""
        if entry.counts:
            self._total += amount - entry.amount
            entry.amount = amount

    def _expire(self, now: float) -> None:
        while self._entries and now - self._entries[0].at >= self.seconds:
            gone = self._entries.popleft()
            gone.counts = False
            self._total -= gone.amount
        if not self._entries:
            self._total = 0.0  # sums of floats drift


class RateLimits:
    """The rpm and tpm of one client, and the pause that a server asked for."""

    def __init__(self, rpm: int | None, tpm: int | None, timing: Timing):
        self._timing = timing
        self._requests = SlidingWindow(rpm, timing.minute) if rpm else None
        self._tokens = SlidingWindow(tpm, timing.minute) if tpm else None
        self._paused_until = float("-inf")

    def delay(self, tokens: int) -> float:
        """Return the seconds until a request of `tokens` may be sent; 0 is now."""
        now = self._timing.monotonic()
        delays = [self._paused_until - now, 0.0]
        if self._requests:
            delays.append(self._requests.delay(1, now))
        if self._tokens:
            delays.append(self._tokens.delay(tokens, now))
        return max(delays)

    async def wait(self, tokens: int, sleep: Callable[[float], Awaitable[None]]) -> None:
        """Sleep until a request of `tokens` may be sent; one caller at a time."""
        while (seconds := self.delay(tokens)) > 0:
            await sleep(seconds)

    def sent(self, tokens: int) -> Entry | None:
        """Count a request that goes out now; return its tokens, to be corrected."""
        now = self._timing.monotonic()
        if self._requests:
            self._requests.add(1, now)
        return self._tokens.add(tokens, now) if self._tokens else None

    def correct(self, entry: Entry | None, tokens: int) -> None:
        """Replace the estimated tokens of a request by those it took."""
        if entry is not None and self._tokens:
            self._tokens.correct(entry, tokens)

    def pause(self, seconds: float) -> None:
        """Send nothing for `seconds`: a 429 concerns the account, not one request."""
        self._paused_until = max(self._paused_until, self._timing.monotonic() + seconds)
