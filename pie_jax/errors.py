"""Errors of pie_jax calls, their exit codes, and numbers that have to be whole."""

from __future__ import annotations

import operator


class PieError(Exception):
    """A failure with one sentence for the user; the command line exits with 1."""

    exit_code = 1

    def __str__(self) -> str:
        """Return the sentence on one line: names from files may hold any character."""
        text = super().__str__()
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class InputError(PieError):
    """Bad input: a file, row or option that the caller can correct; exit code 2.

    The message is one sentence that names the file, row or option, says what is wrong
    and what to do about it.
    """

    exit_code = 2


def whole_number(value: object, what: str) -> int:
    """Return a whole number; a float such as 3.0, as JSON may hold it, is taken as 3.

    Raises `InputError`, which says of `what`, for any other value: nothing is rounded.
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    try:
        if not isinstance(value, bool):
            return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        pass
    raise InputError(f"{what}: {value!r} is not a whole number; give one.")
