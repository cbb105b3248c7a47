"""Errors between a request and a usable answer, and what follows from each."""

from __future__ import annotations

from typing import ClassVar

from pie_jax.errors import InputError, PieError


class LLMError(PieError):
    """Any failure of an LLM call; the class says what kind, and the client acts by it.

    `kind` is the word in the usage records, `retriable` failures are tried again, and after one
    with `charge_unknown` the server may have charged although no answer arrived.
    """

    kind: ClassVar[str] = "failed"
    retriable: ClassVar[bool] = False
    charge_unknown: ClassVar[bool] = False


class RequestFailed(LLMError):
    """One request has no usable answer; the others go on. It is never a score."""


class RateLimited(RequestFailed):
    """HTTP 429, on every attempt."""

    kind, retriable = "rate_limited", True


class ServerFailed(RequestFailed):
    """HTTP 408, 409, 425 or 5xx, or HTTP 200 with an error in its body, on every attempt."""

    kind, retriable = "server_error", True


class TimedOut(RequestFailed):
    """No whole reply within the time-out, on every attempt."""

    kind, retriable, charge_unknown = "timeout", True, True


class ConnectionLost(RequestFailed):
    """The connection broke before the whole reply had arrived, on every attempt."""

    kind, retriable, charge_unknown = "connection_lost", True, True


class BadReply(RequestFailed):
    """HTTP 200 with something that is no chat completion (HTML, half a JSON), on every attempt."""

    kind, retriable, charge_unknown = "bad_reply", True, True


class RequestRefused(RequestFailed):
    """HTTP 400, 413 or 422: the server takes no such request."""

    kind = "refused"


class ContentFiltered(RequestFailed):
    """The server or the model declined to answer this content."""

    kind = "content_filter"


class Truncated(RequestFailed):
    """The answer was cut off at the output limit (finish_reason `length`)."""

    kind = "length"


class InvalidReply(RequestFailed):
    """The answer fits the format neither at first nor after the repair attempt.

    `replies` are the texts, in order; `cost` is what they cost, None without prices.
    """

    kind = "invalid_reply"

    def __init__(self, message: str, replies: tuple[str, ...] = (), cost: float | None = None):
        super().__init__(message)
        self.replies, self.cost = replies, cost


class Stopped(LLMError):
    """Nothing more can be sent; what was answered is stored, and a rerun goes on from there."""


class AuthFailed(Stopped, InputError):
    """HTTP 401 or 403: the key is missing, wrong or not allowed to do this."""

    kind = "auth"


class NotFound(Stopped, InputError):
    """HTTP 404 or a redirect: wrong base URL or model name."""

    kind = "not_found"


class OutOfCredit(Stopped):
    """HTTP 402, or 429 because the account has nothing left."""

    kind = "out_of_credit"


class Unreachable(Stopped):
    """No connection to the server, on every attempt; so nothing was charged."""

    kind, retriable = "unreachable", True


class WaitTooLong(Stopped):
    """The server asks for a longer wait (Retry-After) than the client is willing to make."""

    kind = "wait_too_long"


class BudgetSpent(Stopped):
    """The next call does not fit into the budget of calls, tokens or money."""

    kind = "budget"


class StoreFailed(Stopped):
    """The file of answers cannot be written; nothing more is paid for that could be lost."""

    kind = "store"


class ClientClosed(Stopped):
    """The client was closed while the request waited."""

    kind = "closed"
