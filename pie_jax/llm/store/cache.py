"""The store of a run: answers that are never paid twice, usage, and what models refuse."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path

from pie_jax.llm.config import LLMConfig
from pie_jax.llm.request import Answer, Request, Usage
from pie_jax.llm.store.database import Database
from pie_jax.llm.store.usage import Ended, Ledger, end_call


class LLMStore:
    """One SQLite file for all clients of a run: explainer and judge, this process and others.

    It belongs to the thread that made it. `ledger` has the usage records. Raises `InputError`
    where the path is no such file.
    """

    def __init__(self, path: str | Path, wall: Callable[[], float] = time.time):
        self._database = Database(path)
        self._wall = wall
        self.path = str(path)
        self.ledger = Ledger(self._database)
        # Requests that are being answered in this process, by key; calls that are out.
        self.in_flight: dict[str, asyncio.Task[Answer]] = {}
        self.under_way = 0

    def answer(self, key: str) -> Answer | None:
        """Return the stored answer to a request, None if there is none."""
        rows = self._database.rows(
            "SELECT text, finish_reason, prompt_tokens, completion_tokens, usage_estimated, cost,"
            " served_model FROM answers WHERE key = ?",
            (key,),
        )
        if not rows:
            return None
        text, finish, prompt, completion, estimated, cost, model = rows[0]
        usage = Usage(prompt, completion, bool(estimated))
        return Answer(key, text, finish, usage, cost, model, cached=True)

    def keep(
        self, answer: Answer, request: Request, config: LLMConfig, number: int, ended: Ended
    ) -> None:
        """Store an answer and the end of its call, both or neither, before it is handed on."""
        body = json.dumps(request.body(config), ensure_ascii=False)
        usage = answer.usage
        with self._database.transaction(durable=True) as connection:
            end_call(connection.execute, number, ended)
            connection.execute(
                "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    answer.key,
                    self._wall(),
                    config.base_url,
                    config.model,
                    body,
                    answer.text,
                    answer.finish_reason,
                    usage.prompt_tokens,
                    usage.completion_tokens,
                    usage.estimated,
                    answer.cost,
                    answer.model,
                ),
            )

    def parameters(self, config: LLMConfig) -> dict[str, int]:
        """Return what the model is known to refuse: places on `parameters.LADDERS`."""
        rows = self._database.rows(
            "SELECT name, level FROM parameters WHERE base_url = ? AND model = ?",
            (config.base_url, config.model),
        )
        return dict(rows)

    def learn(self, config: LLMConfig, name: str, level: int, note: str) -> None:
        """Keep what the model was found to refuse."""
        with self._database.transaction(durable=False) as connection:
            connection.execute(
                "INSERT INTO parameters VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
                " level = max(level, excluded.level), note = excluded.note",
                (config.base_url, config.model, name, level, note),
            )

    def notes(self) -> list[str]:
        """Return a sentence for everything that a model was found to refuse."""
        return [note for (note,) in self._database.rows("SELECT note FROM parameters ORDER BY 1")]

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def __enter__(self) -> LLMStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
