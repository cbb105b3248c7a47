"""A client for OpenAI-compatible servers: nothing paid for is lost or repeated.

>>> from pie_jax.llm import LLMClient, LLMConfig, LLMStore, Message, Request, schemas
>>> config = LLMConfig("http://127.0.0.1:8000/v1", "some-model", rpm=500)
>>> ask = Request((Message("user", "..."),), schemas.EXPLANATION)
>>> async def explain():  # doctest: +SKIP
...     with LLMStore("llm.sqlite") as store:
...         async with LLMClient(config, store, name="explainer") as client:
...             return (await client.complete(ask)).value
"""

from pie_jax.llm.client import LLMClient
from pie_jax.llm.config import LLMConfig, Prices
from pie_jax.llm.errors import (
    AuthFailed,
    BadReply,
    BudgetSpent,
    ClientClosed,
    ConnectionLost,
    ContentFiltered,
    InvalidReply,
    LLMError,
    NotFound,
    OutOfCredit,
    RateLimited,
    RequestFailed,
    RequestRefused,
    ServerFailed,
    Stopped,
    StoreFailed,
    TimedOut,
    Truncated,
    Unreachable,
    WaitTooLong,
)
from pie_jax.llm.estimate import Estimate, estimate
from pie_jax.llm.parsing import schemas, wire
from pie_jax.llm.request import Message, Outcome, Reply, ReplyFormat, Request, Usage
from pie_jax.llm.sending.timing import Timing
from pie_jax.llm.store.cache import LLMStore
from pie_jax.llm.store.usage import Totals, UsageRow
from pie_jax.llm.tokens import approximate_tokens

__all__ = [
    "AuthFailed",
    "BadReply",
    "BudgetSpent",
    "ClientClosed",
    "ConnectionLost",
    "ContentFiltered",
    "Estimate",
    "InvalidReply",
    "LLMClient",
    "LLMConfig",
    "LLMError",
    "LLMStore",
    "Message",
    "NotFound",
    "OutOfCredit",
    "Outcome",
    "Prices",
    "RateLimited",
    "Reply",
    "ReplyFormat",
    "Request",
    "RequestFailed",
    "RequestRefused",
    "ServerFailed",
    "Stopped",
    "StoreFailed",
    "TimedOut",
    "Timing",
    "Totals",
    "Truncated",
    "Unreachable",
    "Usage",
    "UsageRow",
    "WaitTooLong",
    "approximate_tokens",
    "estimate",
    "schemas",
    "wire",
]
