"""Errors of pie_jax calls, and their exit codes."""

from __future__ import annotations


class PieError(Exception):
    """A failure with one sentence for the user; the command line exits with 1."""

    exit_code = 1


class InputError(PieError):
    """Bad input: a file, row or option that the caller can correct; exit code 2.

    The message is one sentence that names the file, row or option, says what is wrong
    and what to do about it.
    """

    exit_code = 2
