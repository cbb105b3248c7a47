"""Rate limits and waiting times, on a clock of the tests' own."""

from __future__ import annotations

import asyncio
import random
from email.utils import formatdate

import pytest

from pie_jax.llm.sending.limits import RateLimits, SlidingWindow
from pie_jax.llm.sending.retry import backoff, read_retry_after
from pie_jax.llm.sending.timing import Timing


class FakeClock:
    """Time that passes only in sleep."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timing = Timing(monotonic=lambda: self.now, sleep=self.sleep)

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


def most_in_a_window(times: list[float], amounts: list[float], seconds: float) -> float:
    """Return the largest sum within any half-open window."""
    return max(
        sum(b for s, b in zip(times, amounts, strict=True) if t <= s < t + seconds - 1e-6)
        for t in times
    )


def test_window():
    window = SlidingWindow(10, 60)
    assert window.delay(10, 0) == 0
    window.add(4, 0)
    window.add(6, 20)
    assert window.delay(1, 30) == pytest.approx(30)
    assert window.delay(5, 30) == pytest.approx(50)
    assert window.delay(4, 60) == 0
    assert window.delay(5, 60) == pytest.approx(20)


def test_more_than_the_limit_goes_alone():
    window = SlidingWindow(10, 60)
    assert window.delay(50, 0) == 0
    window.add(50, 0)
    assert window.delay(50, 10) == pytest.approx(50)
    assert window.delay(1, 10) == pytest.approx(50)


def test_an_estimate_is_corrected():
    window = SlidingWindow(10, 60)
    entry = window.add(10, 0)
    window.correct(entry, 3)
    assert window.delay(7, 1) == 0
    assert window.delay(8, 1) == pytest.approx(59)
    assert window.delay(10, 61) == 0
    window.correct(entry, 10)  # long gone
    assert window.delay(10, 61) == 0


@pytest.mark.parametrize("seed", range(5))
def test_limits_hold_in_every_window(seed: int):
    chance = random.Random(seed)
    clock = FakeClock()
    limits = RateLimits(20, 1000, clock.timing)
    times, tokens = [], []

    async def send() -> None:
        for _ in range(200):
            amount = chance.randint(1, 200)
            await limits.wait(amount, clock.sleep)
            times.append(clock.now)
            tokens.append(amount)
            limits.sent(amount)
            clock.now += chance.choice([0.0, 0.0, 0.1, 5.0])

    asyncio.run(send())
    assert most_in_a_window(times, [1.0] * 200, 60) <= 20
    assert most_in_a_window(times, tokens, 60) <= 1000
    # ... and they are used: no slower than the tighter of the two asks for, by a window.
    assert times[-1] - times[0] <= 60 * (max(200 / 20, sum(tokens) / 800) + 1) + 200 * 1.3


def test_a_pause_holds_everything():
    clock = FakeClock()
    limits = RateLimits(None, None, clock.timing)
    assert limits.delay(5) == 0
    limits.pause(30)
    limits.pause(10)
    assert limits.delay(5) == pytest.approx(30)
    asyncio.run(limits.wait(5, clock.sleep))
    assert clock.now == pytest.approx(1030)


def test_backoff_is_exponential_with_full_jitter():
    def wait(attempt: int, chance: float) -> float:
        return backoff(attempt, base=1, cap=60, random=lambda: chance)

    assert [wait(n, 1.0) for n in (1, 2, 3, 7, 8, 5000)] == [1, 2, 4, 60, 60, 60]
    assert wait(3, 0.0) == 0
    assert wait(3, 0.25) == 1


def test_a_server_that_names_a_time_is_kept_to():
    assert backoff(1, base=1, cap=60, random=lambda: 0.0, retry_after=7) == 7
    assert backoff(5, base=1, cap=60, random=lambda: 0.5, retry_after=100) == 100.5


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after": "-3"}, 0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after-ms": "1500", "retry-after": "60"}, 1.5),
        ({"retry-after": formatdate(1030, usegmt=True)}, 30),
        ({"retry-after": formatdate(900, usegmt=True)}, 0),
        ({"retry-after": "Thu, 01 Jan 1970 00:17:10 -0000"}, 30),
        # The server's clock is an hour ahead.
        (
            {
                "retry-after": formatdate(4630, usegmt=True),
                "date": formatdate(4600, usegmt=True),
            },
            30,
        ),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None):
    assert read_retry_after(headers, now=1000.0) == seconds
