"""Prepared batches that are used many times, kept in memory as far as it allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

import jax

from pie_jax.devices.processes import from_first
from pie_jax.prune.batch.pairs import PairBatch
from pie_jax.prune.batch.prefetch import prepared
from pie_jax.prune.search.task_wide.gains import TaskBatch

# Where a device does not say how much memory it has.
_MEMORY = 8 << 30


class HeldBatches:
    """The batches of some pairs in order, as often as asked for.

    The first ones stay in memory, up to half of the device's (4 GiB on a CPU); the others are
    prepared again each time, one ahead of its use.
    """

    def __init__(
        self,
        prepare: Callable[[PairBatch], TaskBatch],
        plan: Sequence[PairBatch],
        *,
        ahead: bool,
        seen: Callable[[int, int, int], None],
    ):
        self._prepare, self._plan, self._ahead, self._seen = prepare, plan, ahead, seen
        self._held: list[TaskBatch] = []
        self._passes = 0
        # One decision for all processes.
        self._room = from_first(_room)

    def __iter__(self) -> Iterator[TaskBatch]:
        """Yield every batch; `seen(pass, done, total)` is called as each is done with."""
        self._passes += 1
        held = list(self._held)
        for index, batch in enumerate(held):
            yield batch
            self._seen(self._passes, index + 1, len(self._plan))
        rest = self._plan[len(held) :]
        keeping = True
        with closing(prepared(self._prepare, rest, ahead=self._ahead)) as ready:
            for index in range(len(held), len(self._plan)):
                taken = [next(ready)]
                size = _size(taken[0])
                keeping = keeping and size <= self._room
                if keeping:
                    self._room -= size
                    self._held.append(taken[0])
                yield taken.pop()
                self._seen(self._passes, index + 1, len(self._plan))


def _size(batch: TaskBatch) -> int:
    inputs = batch.inputs
    # The model is no batch's own.
    own = (inputs.problem._replace(model=None), inputs.total)  # type: ignore[arg-type]
    return sum(leaf.nbytes for leaf in jax.tree.leaves(own))


def _room() -> int:
    stats = jax.local_devices()[0].memory_stats() or {}
    return int(stats.get("bytes_limit", _MEMORY)) // 2
