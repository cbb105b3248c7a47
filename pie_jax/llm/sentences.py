"""The one sentence that a user reads when a request fails."""

from __future__ import annotations

from pie_jax.llm.config import LLMConfig
from pie_jax.llm.errors import AuthFailed, NotFound, OutOfCredit, RequestRefused, Unreachable
from pie_jax.llm.parsing.replies import Failure
from pie_jax.llm.sending.keys import ApiKey


def explain(failure: Failure, config: LLMConfig, key: ApiKey, attempts: int) -> str:
    """Return what failed, what the server said, and what to do."""
    said = " ".join(part for part in (_status(failure), failure.said) if part)
    said = f" ({said})" if said else ""
    where = config.base_url
    if failure.error is AuthFailed:
        return f"{where} did not accept the request{said}; {_about_key(key)}."
    if failure.error is NotFound:
        return (
            f"{where} has no {config.model} to chat with{said}; check the base URL and the "
            "model's name."
        )
    if failure.error is OutOfCredit:
        return f"{where}: the account has no credit left{said}; repeat the command when it has."
    if failure.error is Unreachable:
        return (
            f"{where} cannot be reached{said} after {attempts} attempts; check the base URL and "
            "whether the server is up, then repeat the command to go on."
        )
    if failure.error is RequestRefused:
        return f"{config.model} at {where} refused a request{said}."
    times = "once" if attempts == 1 else f"{attempts} times"
    return f"{config.model} at {where} failed {times}: {failure.error.kind}{said}."


def _status(failure: Failure) -> str:
    return f"HTTP {failure.status}:" if failure.status and failure.said else _bare(failure)


def _bare(failure: Failure) -> str:
    return f"HTTP {failure.status}" if failure.status else ""


def _about_key(key: ApiKey) -> str:
    if not key.variable:
        return "name the environment variable that holds a key"
    if key.is_set:
        return f"check the key in {key.variable} and what it is allowed to do"
    return f"set {key.variable} to a key"
