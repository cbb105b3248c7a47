"""Atomic writing of files, and the errors of a disk that does not take them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pie_jax.errors import PieError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file that takes a file's place once it is written.

    Raises `PieError` naming the file where the disk is full or does not take it; the temporary file
    is gone then, and the old one stays.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    with writing(path):
        try:
            yield temporary
            temporary.replace(path)
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write a file into a `PieError` that names it."""
    try:
        yield
    except OSError as error:
        # pyarrow raises some without a number.
        cause = error.strerror or f"{type(error).__name__}: {error}".splitlines()[0]
        raise PieError(
            f"{path}: cannot be written ({cause}); what was finished before is kept: make room or "
            "give leave to write, and repeat the command to go on."
        ) from error
