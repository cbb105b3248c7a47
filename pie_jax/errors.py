"""Errors of pie_jax calls, and their exit codes."""

from __future__ import annotations


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
