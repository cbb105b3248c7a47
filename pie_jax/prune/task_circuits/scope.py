"""Circuits of a whole task: K unique (layer, feature), found on some pairs, evaluated on all.

What interpretation costs is unique features, so K counts those; a kept feature is kept wherever it
occurs. Every other pair is found on (`seen`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from pie_jax.errors import InputError
from pie_jax.models.loader import LanguageModel
from pie_jax.prune.batch.pairs import PairBatch, batches
from pie_jax.prune.engine.corruptions import seen_and_held_out
from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.methods import METHODS
from pie_jax.prune.options import PruneOptions
from pie_jax.prune.results.columns import Columns
from pie_jax.prune.results.shared_folder import SharedFolder, shared_folder
from pie_jax.prune.run import Progress, on_one_device, run_parts
from pie_jax.prune.search.task_wide.gains import TaskBatch, batch_kl
from pie_jax.prune.search.task_wide.search import TaskSearch
from pie_jax.prune.setup import Run, opened_run, run_config, run_record
from pie_jax.prune.step import Pruner
from pie_jax.prune.task_circuits.batches import HeldBatches
from pie_jax.prune.task_circuits.features import TaskFeatures, alone
from pie_jax.prune.task_circuits.results import SCOPE, TaskResult, assemble, load_task_result
from pie_jax.tasks import Pair
from pie_jax.transcoders.store import Transcoder


def prune_task(
    model: LanguageModel,
    transcoder: Transcoder,
    pairs: Sequence[Pair],
    options: PruneOptions | None = None,
    *,
    out: str | Path | None = None,
    mesh: Mesh | None = None,
    progress: Progress | None = None,
    source: str = "pairs",
    **settings: Any,
) -> TaskResult:
    """Find K unique features for a whole task on every other pair, and evaluate them on all.

    Arguments are those of `prune`; budgets count features. With `out`, finished batches of single
    prompts, methods and evaluated batches are kept there; repeating the call resumes. Raises
    `InputError` for settings, pairs or weights that do not fit, and with fewer than two pairs.
    """
    run = opened_run(model, transcoder, pairs, options, settings, mesh=mesh, source=source)
    _check(run, source)
    work = _Work(run, progress)
    config = {"scope": SCOPE, **run_config(run, pairs, stored=out is not None)}
    with shared_folder(out, config, load_task_result) as folder:
        if folder is not None and (done := folder.finished()) is not None:
            return done
        record = run_record(run, len(work.seen) + len(work.unseen))
        if folder is not None:
            folder.begin(record)
        tables = work.tables(folder)
        seconds = work.pruner.seconds.items()
        record["seconds"] = {name: round(value, 3) for name, value in seconds}
        result = TaskResult(**tables, record=record)
        if folder is not None:
            folder.complete(result.tables(), result.record)
    return replace(result, record={"status": "complete", "config": config, **record})


def _check(run: Run, source: str) -> None:
    if len(run.encoded) < 2:
        raise InputError(
            f"{source}: --scope task needs at least 2 pairs, one to find on and one to judge on."
        )
    if run.options.search.exchanges:
        raise InputError("search.exchanges: --scope task makes none; set it to 0.")


class _Work:
    """The three passes of a run: single prompts, then methods, then judging; each resumes."""

    def __init__(self, run: Run, progress: Progress | None):
        self._options, self._progress = run.options, progress
        self._ahead = on_one_device(run.model)
        self.pruner = Pruner(run.model, run.transcoder, run.options)
        halves = (run.encoded[0::2], run.encoded[1::2])
        self.seen, self.unseen = (batches(half, run.options.batch_size) for half in halves)
        self._seen_rows = [pair.index for pair in halves[0]]

    def tables(self, folder: SharedFolder | None) -> dict[str, Any]:
        """Return the tables of the run; parts that the folder has are not computed."""
        parts = partial(run_parts, self.pruner, folder=folder, ahead=self._ahead)
        single = parts(
            self.seen,
            progress=self._progress,
            measure=partial(alone, self.pruner),
            unit="batches of single prompts",
        )
        self._features = TaskFeatures(single)
        circuits = list(self._circuits(folder, len(self.seen)))
        judged = parts(
            [*self.seen, *self.unseen],
            progress=self._progress,
            measure=partial(self._judge, circuits),
            first=len(self.seen) + len(circuits),
            unit="batches judged",
        )
        return assemble(single, circuits, judged, self._options.methods)

    def _circuits(self, folder: SharedFolder | None, first: int) -> Iterator[dict[str, Columns]]:
        """Yield every method's circuits, as parts of the folder from `first` on."""
        search = self._search()
        for index, name in enumerate(self._options.methods):
            part = None if folder is None else folder.part(first + index)
            if part is None:
                self._now = (index, name)
                with self.pruner.stage(f"task {name}"):
                    part = {"task": self._columns(index, *self._find(name, search))}
                if folder is not None:
                    folder.save_part(first + index, part)
            yield part
            if self._progress is not None:
                self._progress(index + 1, len(self._options.methods), "methods")

    def _find(self, name: str, search: TaskSearch) -> tuple[np.ndarray, np.ndarray]:
        """Return a method's circuits as masks [S, U], and each feature's gain [S, U]."""
        task = METHODS[name].task
        return self._features.summed(name, self._options) if task is None else task(search)

    def _search(self) -> TaskSearch:
        def prepare(batch: PairBatch) -> TaskBatch:
            found, _ = seen_and_held_out(self.pruner.prepare(batch))
            return TaskBatch(found, self._features.of(found), batch.real)

        def seen(passes: int, done: int, total: int) -> None:
            if self._progress is not None:
                index, name = self._now
                unit = f"methods ({name}: pass {passes}, batch {done} of {total})"
                self._progress(index, len(self._options.methods), unit)

        held = HeldBatches(prepare, self.seen, ahead=self._ahead, seen=seen)
        return TaskSearch(held, len(self._seen_rows), self._features.active, self._options)

    def _columns(self, method: int, mask: np.ndarray, score: np.ndarray) -> Columns:
        """Return the features of masks [S, U], best first."""
        rows = []
        for budget, kept, worth in zip(self._options.budgets, mask, score, strict=True):
            slot = np.flatnonzero(kept)
            slot = slot[np.argsort(-worth[slot], kind="stable")]
            rows.append((np.full(len(slot), budget), slot, np.arange(len(slot)) + 1, worth[slot]))
        budgets, slot, rank, worth = (np.concatenate(column) for column in zip(*rows, strict=True))
        return {
            "method": np.full(len(slot), method, np.int16),
            "budget": budgets.astype(np.int32),
            "layer": self._features.layer[slot],
            "feature": self._features.feature[slot],
            "rank": rank.astype(np.int32),
            "score": worth.astype(np.float32),
        }

    def _judge(
        self, circuits: Sequence[dict[str, Columns]], batch: PairBatch, inputs: BatchEvaluator
    ) -> dict[str, Columns]:
        """Return the KL of every circuit on a batch, and of nothing kept."""
        methods, budgets = self._options.methods, self._options.budgets
        # The last keeps nothing.
        mask = np.zeros((len(methods) + 1, len(budgets), len(self._features.keys)), np.float32)
        for index, part in enumerate(circuits):
            table = part["task"]
            slot = self._features.slots(table["layer"], table["feature"])
            mask[index, [budgets.index(budget) for budget in table["budget"]], slot] = 1.0
        _, judged = seen_and_held_out(inputs)
        task_batch = TaskBatch(judged, self._features.of(judged), batch.real)
        with self.pruner.stage("judge"):
            kl = np.stack([batch_kl(task_batch, one) for one in mask], axis=1)
        shape = (batch.real, len(methods), len(budgets))
        prompt = batch.rows[: batch.real, None, None]
        columns = {
            "prompt": prompt,
            "method": np.arange(len(methods), dtype=np.int16)[:, None],
            "budget": np.array(budgets, np.int32),
            "seen": np.isin(prompt, self._seen_rows),
            "kl_last": kl[:, :-1],
            "kl_last_null": kl[:, -1:, :1],
        }
        flat = {name: np.broadcast_to(x, shape).reshape(-1) for name, x in columns.items()}
        return {"task_behaviour": flat}
