"""Stage III: score explanations, each feature on disk as soon as it is done."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa

from pie_jax.evaluate.results import (
    evaluation_table,
    open_journal,
    read_score,
    save_evaluation,
    trial_row,
)
from pie_jax.evaluate.scorers import DEFAULT_SCORERS, Scorer, get_scorers
from pie_jax.evaluate.statistics import Score, undefined
from pie_jax.evaluate.subject import Shared, Subject
from pie_jax.features.baselines import Trial
from pie_jax.features.records import FeatureExamples, FeatureKey
from pie_jax.files.journal import Journal, Row
from pie_jax.interpret.run import map_bounded
from pie_jax.llm.sending.waiting import wait_for

# done, total, what is being done
Progress = Callable[[int, int, str], None]
_AT_ONCE = 16


def evaluate(
    groups: Mapping[str, Sequence[Trial]],
    examples: Sequence[FeatureExamples],
    shared: Shared,
    *,
    scorers: Sequence[str] = DEFAULT_SCORERS,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> pa.Table:
    """Score groups of trials; see `evaluate_async`."""
    return wait_for(
        evaluate_async(groups, examples, shared, scorers=scorers, out=out, progress=progress)
    )


async def evaluate_async(
    groups: Mapping[str, Sequence[Trial]],
    examples: Sequence[FeatureExamples],
    shared: Shared,
    *,
    scorers: Sequence[str] = DEFAULT_SCORERS,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> pa.Table:
    """Score groups of trials (`baselines.own`, `baselines.shuffled`) and return the long table.

    With `out`, finished trials go to evaluation.jsonl at once and the table to evaluation.parquet
    at the end; a rerun takes what is there. `Stopped` (budget spent, key refused, ...) ends it.
    """
    chosen = get_scorers(scorers)
    run = _Run(chosen, {one.key: one for one in examples}, shared)
    journal = None if out is None else open_journal(Path(out))
    trials = [(group, trial) for group, members in groups.items() for trial in members]
    done = 0

    async def one(item: tuple[str, Trial]) -> Row:
        nonlocal done
        group, trial = item
        row = await run.row(group, trial, journal)
        done += 1
        if progress is not None:
            progress(done, len(trials), "explanations scored")
        return row

    rows = await map_bounded(one, trials, _AT_ONCE)
    table = evaluation_table(rows)
    if out is not None:
        save_evaluation(Path(out), table)
    return table


class _Run:
    def __init__(
        self,
        scorers: Sequence[Scorer],
        examples: Mapping[FeatureKey, FeatureExamples],
        shared: Shared,
    ):
        self._scorers, self._examples, self._shared = scorers, examples, shared
        # The same explanation of the same feature in two groups is scored once.
        self._tasks: dict[tuple[FeatureKey, str | None], asyncio.Task[dict[str, Score]]] = {}

    async def row(self, group: str, trial: Trial, journal: Journal | None) -> Row:
        """Return a trial's row, from the journal if it is finished there."""
        settings = self._settings(trial)
        empty = trial_row(group, trial, self._shared.judge, {})
        if journal is not None:
            found = journal.rows.get(journal.identity(empty))
            if found is not None and found.get("settings") == settings and _is_final(found):
                return found
        scores = await self._scores(trial)
        row = {**trial_row(group, trial, self._shared.judge, scores), "settings": settings}
        if journal is not None:
            journal.append(row)
        return row

    async def _scores(self, trial: Trial) -> dict[str, Score]:
        known = (trial.key, trial.explanation.text)
        if known not in self._tasks:
            self._tasks[known] = asyncio.create_task(self._score(trial))
        return await self._tasks[known]

    async def _score(self, trial: Trial) -> dict[str, Score]:
        examples = self._examples.get(trial.key)
        if trial.explanation.text is None or examples is None:
            reason = "no-explanation" if examples else "no-examples"
            return {scorer.name: undefined(reason) for scorer in self._scorers}
        subject = Subject(trial.explanation, examples, self._shared)
        for scorer in self._scorers:
            subject.scores[scorer.name] = await scorer.score(subject)
        return subject.scores

    def _settings(self, trial: Trial) -> str:
        """Return a hash of what the scores follow from."""
        shared, examples = self._shared, self._examples.get(trial.key)
        windows = sorted(examples.for_scoring) if examples else []
        pool = hashlib.sha256(
            "\0".join(text.text for text in shared.natural.texts).encode("utf-8", "replace")
        )
        whole = [
            trial.explanation.text,
            [scorer.name for scorer in self._scorers],
            asdict(shared.preset),
            shared.gini,
            shared.seed,
            shared.steerer is not None,
            examples.maximum if examples else None,
            windows,
            pool.hexdigest(),
        ]
        return hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:16]


def _is_final(row: Row) -> bool:
    """Say whether scoring again could not give more: no score is missing because calls failed."""
    scores = [read_score(score) for score in row["scores"].values()]
    return not any(score.status.startswith("all-calls-failed") for score in scores)
