"""Several processes as one run: joining them, and decisions of process 0 for all."""

from __future__ import annotations

import hashlib
import os
import pickle
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from pie_jax.devices.shapes import bucket
from pie_jax.errors import InputError, PieError

# How long a process may be silent before the others give up, and how long they wait at the end.
TIMEOUT_SECONDS = 60
# How long the first waits for the last to start.
MEET_SECONDS = 300
# Most answers fit into one broadcast of this many bytes.
_BLOCK = 1024
_LENGTH = struct.Struct("<q")
_Value = TypeVar("_Value")


def asked_for(environment: Mapping[str, str] = os.environ) -> bool:
    """Tell whether the environment starts several processes as one: a SLURM step of several
    tasks, or JAX_COORDINATOR_ADDRESS."""
    tasks = environment.get("SLURM_STEP_NUM_TASKS", "")
    slurm = tasks.isdigit() and int(tasks) > 1
    return slurm or bool(environment.get("JAX_COORDINATOR_ADDRESS"))


def start(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    timeout_seconds: int = TIMEOUT_SECONDS,
) -> None:
    """Join `processes` processes, of which this is number `process`; call it before any other use
    of JAX.

    `coordinator` is HOST:PORT of process 0. Without the three, JAX finds them (SLURM, Kubernetes,
    TPU pods). Where a process dies, the others end within `timeout_seconds`. Raises `InputError`
    where the three are incomplete or not found, `PieError` where the processes do not meet.
    """
    _check(coordinator, processes, process)
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            initialization_timeout=MEET_SECONDS,
            heartbeat_timeout_seconds=timeout_seconds,
            shutdown_timeout_seconds=timeout_seconds,
        )
    except ValueError as error:
        raise InputError(
            "--distributed: JAX finds no cluster here; name --coordinator, --processes and "
            "--process."
        ) from error
    except RuntimeError as error:
        raise PieError(
            f"--distributed: cannot join the other processes ({str(error).splitlines()[0]}); check "
            "the coordinator's address and that every process runs."
        ) from error


def _check(coordinator: str | None, processes: int | None, process: int | None) -> None:
    given = [value is not None for value in (coordinator, processes, process)]
    if any(given) and not all(given):
        raise InputError(
            "--coordinator, --processes and --process belong together; give all three."
        )
    if coordinator is None or processes is None or process is None:
        return
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise InputError(f"--coordinator: `{coordinator}` is not HOST:PORT.")
    if not 0 <= process < processes:
        raise InputError(
            f"--process: must be from 0 to {processes - 1} of {processes} processes, but it is "
            f"{process}."
        )


def is_first() -> bool:
    """Tell whether this is process 0, which writes and reports."""
    return jax.process_index() == 0


def from_first(make: Callable[[], _Value]) -> _Value:
    """Return what `make` gives on process 0 to every process; its error is raised on each.

    Every process must call it, in the same order. The value must be picklable.
    """
    if jax.process_count() == 1:
        return make()
    done, value = pickle.loads(_broadcast(_message(make) if is_first() else b""))
    if not done:
        raise value
    return value


@contextmanager
def naming_lost_processes() -> Iterator[None]:
    """Say what to do where a pass fails while several processes run."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        raise PieError(
            f"a pass failed with several processes ({str(error).splitlines()[0]}); where one of "
            "them died, repeat the command in every process to resume."
        ) from error


def require_same(text: str, what: str) -> None:
    """Raise `InputError` on every process where the processes do not hold the same text."""
    if jax.process_count() == 1:
        return
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
    every = multihost_utils.process_allgather(digest)
    if (every != every[0]).any():
        raise InputError(
            f"{what} differ between the processes; give every process the same command and files."
        )


def _message(make: Callable[[], Any]) -> bytes:
    try:
        return pickle.dumps((True, make()))
    except Exception as error:  # raised again on every process, so that none waits for another
        return pickle.dumps((False, error))


def _broadcast(message: bytes) -> bytes:
    """Return process 0's message; of few sizes, as each is another program to compile."""
    block = _send(_LENGTH.pack(len(message)) + message[: _BLOCK - _LENGTH.size], _BLOCK)
    (length,) = _LENGTH.unpack(block[: _LENGTH.size])
    first = block[_LENGTH.size : _LENGTH.size + length]
    left = length - len(first)
    return first if left == 0 else first + _send(message[len(first) :], bucket(left, _BLOCK))[:left]


def _send(message: bytes, size: int) -> bytes:
    buffer = np.zeros(size, np.uint8)
    buffer[: len(message)] = np.frombuffer(message, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(buffer), np.uint8).tobytes()
