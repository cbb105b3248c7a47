"""Timing of compiled functions: warm-up, repeats, median and spread."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import jax

# On an accelerator calls are timed in a row that takes so long, at most so many: starting one costs
# tens of microseconds, which others then hide.
_ROW_SECONDS = 0.02
_MOST_IN_A_ROW = 50
# What jax reports whenever it turns a function into a program, cached on disk or not.
_COMPILING = "/jax/core/compile/"


@dataclass(frozen=True)
class Timing:
    """Seconds of some calls; `temporary_mib` is what the compiled program needs beside them.

    `processor` is the median time that cores worked: on a machine that is shared, the steadier
    number of a CPU; of an accelerator it says nothing.
    """

    median: float
    processor: float
    least: float
    most: float
    repeats: int
    temporary_mib: float

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, for JSON."""
        return asdict(self)


def measure(
    function: Callable[..., Any], *arguments: Any, repeats: int, warm_up: int = 2
) -> tuple[Timing, Any]:
    """Compile, call `warm_up` times, then time `repeats` calls, each until its result is there;
    return that too. On an accelerator a call stands for the mean of several in a row."""
    compiled = jax.jit(function).lower(*arguments).compile()
    for _ in range(warm_up):
        start = time.perf_counter()
        result = jax.block_until_ready(compiled(*arguments))
        last = time.perf_counter() - start
    row = 1
    if jax.default_backend() != "cpu":
        row = min(_MOST_IN_A_ROW, math.ceil(_ROW_SECONDS / last))
    seconds, processor = [], []
    for _ in range(repeats):
        start, worked = time.perf_counter(), time.process_time()
        for _ in range(row):
            result = compiled(*arguments)
        jax.block_until_ready(result)
        seconds.append((time.perf_counter() - start) / row)
        processor.append((time.process_time() - worked) / row)
    memory = compiled.memory_analysis()
    temporary = 0 if memory is None else memory.temp_size_in_bytes
    timing = Timing(
        statistics.median(seconds),
        statistics.median(processor),
        min(seconds),
        max(seconds),
        repeats,
        temporary / 2**20,
    )
    return timing, result


@contextmanager
def compiling() -> Iterator[list[float]]:
    """Collect the seconds of every tracing, lowering and compiling meanwhile."""
    seconds: list[float] = []

    def listen(event: str, duration: float, **_: object) -> None:
        if event.startswith(_COMPILING):
            seconds.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seconds
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
