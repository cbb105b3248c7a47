"""The record of every call sent, and the budget that it is held against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pie_jax.llm.config import LLMConfig
from pie_jax.llm.request import Usage
from pie_jax.llm.store.database import Database

# Sums of prices are floats.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Totals:
    """What counts against budgets: answered calls, and the worst case of those without an answer.

    A call that is under way, was killed, timed out or broke off may have been charged; it counts
    with its estimated prompt and its full output limit. Refused and failed calls count nothing.
    """

    calls: int
    tokens: int
    cost: float


@dataclass(frozen=True)
class Budget:
    """Limits of the totals; None is none."""

    calls: int | None = None
    tokens: int | None = None
    cost: float | None = None

    @classmethod
    def of(cls, config: LLMConfig) -> Budget:
        """Return the budget of a client's config."""
        return cls(config.max_calls, config.max_tokens_budget, config.max_cost)

    def exceeded_by(self, totals: Totals) -> str | None:
        """Return the name and size of the limit that the totals exceed, None if they fit."""
        if self.calls is not None and totals.calls > self.calls:
            return f"max_calls {self.calls}"
        if self.tokens is not None and totals.tokens > self.tokens:
            return f"max_tokens_budget {self.tokens}"
        if self.cost is not None and totals.cost > self.cost + _ROUNDING:
            return f"max_cost {self.cost:g}"
        return None


@dataclass(frozen=True)
class NewCall:
    """A call about to be sent; `tokens` and `cost` are the most that it may take."""

    at: float
    client: str
    label: str
    key: str
    base_url: str
    model: str
    tokens: int
    cost: float


@dataclass(frozen=True)
class Ended:
    """How a call ended. Without `usage` it cost nothing, or if `charge_unknown` an unknown sum."""

    status: str
    latency: float
    http_status: int | None = None
    detail: str = ""
    usage: Usage | None = None
    cost: float | None = None
    charge_unknown: bool = False


@dataclass(frozen=True)
class UsageRow:
    """Calls of one client and model by status; tokens and cost of the answered ones.

    `cost` is None where a call had no price, `seconds` the sum of latencies.
    """

    client: str
    model: str
    status: str
    calls: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    seconds: float


class Ledger:
    """Writes and reads the usage records."""

    def __init__(self, database: Database):
        self._database = database

    def begin(self, call: NewCall, budget: Budget) -> int | str:
        """Record a call that is about to be sent; return its number, or the limit in its way.

        What it may take at most is held until it ends, by whichever process looks.
        """
        with self._database.transaction(durable=False) as connection:
            held = connection.execute("SELECT calls, tokens, cost FROM totals").fetchone()
            after = Totals(held[0] + 1, held[1] + call.tokens, held[2] + call.cost)
            if limit := budget.exceeded_by(after):
                return limit
            cursor = connection.execute(
                "INSERT INTO calls (at, client, label, key, base_url, model, status, budget_calls,"
                " budget_tokens, budget_cost) VALUES (?, ?, ?, ?, ?, ?, 'sent', 1, ?, ?)",
                (
                    call.at,
                    call.client,
                    call.label,
                    call.key,
                    call.base_url,
                    call.model,
                    call.tokens,
                    call.cost,
                ),
            )
        return int(cursor.lastrowid or 0)

    def end(self, number: int, ended: Ended) -> None:
        """Record how a call ended."""
        with self._database.transaction(durable=False) as connection:
            end_call(connection.execute, number, ended)

    def totals(self) -> Totals:
        """Return what counts against budgets so far, over all clients and runs of the file."""
        return Totals(*self._database.rows("SELECT calls, tokens, cost FROM totals")[0])

    def summary(self) -> list[UsageRow]:
        """Return the calls by client, model and status."""
        rows = self._database.rows(
            "SELECT client, model, status, count(*), coalesce(sum(prompt_tokens), 0),"
            " coalesce(sum(completion_tokens), 0),"
            " CASE WHEN count(cost) = count(*) THEN sum(cost) END, coalesce(sum(latency), 0.0)"
            " FROM calls GROUP BY client, model, status ORDER BY client, model, status"
        )
        return [UsageRow(*row) for row in rows]


def end_call(execute: Callable[..., object], number: int, ended: Ended) -> None:
    """Write a call's end with a connection's `execute`, inside the caller's transaction."""
    usage = ended.usage
    facts = (ended.status, ended.http_status, ended.detail, ended.latency)
    if usage is None:
        free = not ended.charge_unknown
        held = ", budget_calls = 0, budget_tokens = 0, budget_cost = 0.0" if free else ""
        cost = 0.0 if free else None
        execute(
            "UPDATE calls SET status = ?, http_status = ?, detail = ?, latency = ?, cost = ?"
            f"{held} WHERE id = ?",
            (*facts, cost, number),
        )
        return
    execute(
        "UPDATE calls SET status = ?, http_status = ?, detail = ?, latency = ?, prompt_tokens = ?,"
        " completion_tokens = ?, usage_estimated = ?, cost = ?, budget_tokens = ?,"
        " budget_cost = ? WHERE id = ?",
        (
            *facts,
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.estimated,
            ended.cost,
            usage.total,
            ended.cost or 0.0,
            number,
        ),
    )
