"""Preparing the next batch while this one is computed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import jax

Item = TypeVar("Item")
Ready = TypeVar("Ready")


def prepared(
    prepare: Callable[[Item], Ready], items: Sequence[Item], *, ahead: bool = True
) -> Generator[Ready, None, None]:
    """Yield `prepare(item)` of each item in order, one item ahead in a thread of its own.

    No more than two results are alive if the caller drops each before it asks for the next. What
    `prepare` raises is raised where its result would have come. Closing the iterator waits for the
    item that is under way. Without `ahead`, each is prepared when it is asked for.
    """
    if not ahead or len(items) < 2:
        yield from map(prepare, items)
        return
    # jax keeps it for each thread apart.
    device = jax.config.jax_default_device  # type: ignore[attr-defined]

    def work(item: Item) -> Ready:
        with jax.default_device(device):
            return prepare(item)

    with ThreadPoolExecutor(1, "prepare") as pool:
        waiting = pool.submit(work, items[0])
        for item in items[1:]:
            # In a list, so that nothing here keeps what was handed over.
            ready = [waiting.result()]
            waiting = pool.submit(work, item)
            yield ready.pop()
        ready = [waiting.result()]
        del waiting
        yield ready.pop()
