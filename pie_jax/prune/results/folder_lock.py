"""One writer at a time in a run's folder."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TextIO

from pie_jax.errors import PieError

LOCK = ".lock"
_TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other runs out of an existing folder; the end of the process ends it too.

    Raises `PieError`, saying who writes there, where another run does.
    """
    path = folder / LOCK
    file = _taken(folder, path)
    try:
        file.truncate(0)
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        file.write(f"process {os.getpid()} on {socket.gethostname()}, started {now},\n")
        file.flush()
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


def _taken(folder: Path, path: Path) -> TextIO:
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            _lock(file, folder)
            # A run that ended in between has taken its file away.
            if _is_there(file, path):
                return file
        except BaseException:
            file.close()
            raise
        file.close()


def _is_there(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _lock(file: TextIO, folder: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _TAKEN:
            file.seek(0)
            who = file.read().strip() or "another process"
            raise PieError(
                f"--out {folder}: {who} writes there now; wait until it is done and repeat the "
                "command, or name another folder."
            ) from error
        # Some network file systems have no locks.
        warnings.warn(
            f"{folder}: cannot be locked ({error.strerror}); do not start two runs into it at "
            "once.",
            RuntimeWarning,
            stacklevel=4,
        )
