"""Waits before the next attempt."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def backoff(
    attempt: int,
    *,
    base: float,
    cap: float,
    random: Callable[[], float],
    retry_after: float | None = None,
) -> float:
    """Return the seconds to wait after failed attempt 1, 2, ...: exponential, with full jitter.

    What the server asks for is kept to, with up to `base` seconds on top so that not all
    come back at once.
    """
    if retry_after is not None:
        return retry_after + random() * base
    return random() * min(cap, base * 2.0 ** min(attempt - 1, 60))


def read_retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds that a reply's headers (lower-case names) ask to wait, if they do.

    `now` is Unix time; a date is measured against the reply's own Date where it has one, since
    the two clocks may differ.
    """
    milliseconds = _seconds(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _seconds(value)
    if seconds is not None:
        return seconds
    until = _date(value)
    if until is None:
        return None
    return max(0.0, until - (_date(headers.get("date")) or now))


def _seconds(value: str | None) -> float | None:
    try:
        seconds = float(value or "")
    except ValueError:
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _date(value: str | None) -> float | None:
    try:
        moment: datetime = parsedate_to_datetime(value or "")
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
