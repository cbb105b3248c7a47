"""The pruning stage from pairs to tables: the library's entry, which the command line calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from pie_jax.devices.programs import make_room
from pie_jax.models.loader import LanguageModel
from pie_jax.prune.batch.pairs import PairBatch, batches
from pie_jax.prune.batch.prefetch import prepared
from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.options import PruneOptions
from pie_jax.prune.results.shared_folder import SharedFolder, shared_folder
from pie_jax.prune.results.tables import PruneResult, assemble
from pie_jax.prune.setup import opened_run, run_config, run_record
from pie_jax.prune.step import Columns, Pruner
from pie_jax.tasks import Pair, TokenPair
from pie_jax.transcoders.store import Transcoder

Measure = Callable[[PairBatch, BatchEvaluator], dict[str, Columns]]
# done, total, what is being done
Progress = Callable[[int, int, str], None]


def prune(
    model: LanguageModel,
    transcoder: Transcoder,
    pairs: Sequence[Pair | TokenPair],
    options: PruneOptions | None = None,
    *,
    out: str | Path | None = None,
    mesh: Mesh | None = None,
    progress: Progress | None = None,
    source: str = "pairs",
    **settings: Any,
) -> PruneResult:
    """Find and measure the few features that carry a behaviour (PIE, arXiv 2604.16889).

    Each method scores or searches the occurrences of every pair and keeps K of them for each
    budget; KL (in nats) and the metric (in logits) are then measured with all others removed.
    Pairs of a model without a tokenizer are `TokenPair`s.
    `settings` are fields of `PruneOptions`, such as `methods=("fap",)` and `budgets=(10, 20)`.
    With `out`, results are written there batch by batch; repeating the call resumes. `progress` is
    called with batches done, their total and the stage; `source` names the pairs in errors. On a
    `mesh` (by default the one that the weights were loaded on) prompts and weights are spread over
    its devices; several processes are one run, which process 0 writes. Raises `InputError` for
    settings, pairs or weights that do not fit.
    """
    run = opened_run(model, transcoder, pairs, options, settings, mesh=mesh, source=source)
    # One prompt by itself is not computed as a whole batch of it.
    alone = len(run.encoded) == 1 and run.transcoder.mesh is None
    plan = batches(run.encoded, 1 if alone else run.options.batch_size)
    config = run_config(run, pairs, stored=out is not None)
    with shared_folder(out, config) as folder:
        if folder is not None and (done := folder.finished()) is not None:
            return done
        record = run_record(run, len(plan))
        if folder is not None:
            folder.begin(record)
        pruner = Pruner(run.model, run.transcoder, run.options)
        parts = run_parts(pruner, plan, folder, progress, ahead=on_one_device(run.model))
        record["seconds"] = {name: round(value, 3) for name, value in pruner.seconds.items()}
        result = PruneResult(**assemble(parts, run.options.methods), record=record)
        if folder is not None:
            folder.complete(result.tables(), result.record)
    return replace(result, record={"status": "complete", "config": config, **record})


def run_parts(
    pruner: Pruner,
    plan: Sequence[PairBatch],
    folder: SharedFolder | None,
    progress: Progress | None,
    *,
    ahead: bool,
    measure: Measure | None = None,
    first: int = 0,
    unit: str = "batches",
) -> list[dict[str, Columns]]:
    """Return the columns of every batch, by `Pruner.measure` or another measure.

    Those that the folder has, from part `first` on, are not computed.
    """
    measure = measure or pruner.measure
    found = [None if folder is None else folder.part(first + index) for index in range(len(plan))]
    missing = [batch for batch, part in zip(plan, found, strict=True) if part is None]
    parts = []
    with closing(prepared(pruner.prepare, missing, ahead=ahead)) as ready:
        for index, (batch, part) in enumerate(zip(plan, found, strict=True)):
            if part is None:
                with pruner.stage("next batch"):
                    taken = [next(ready)]
                # Nothing here keeps a batch's arrays while the next one is awaited.
                part = measure(batch, taken.pop())
                if folder is not None:
                    folder.save_part(first + index, part)
                make_room()
            parts.append(part)
            if progress is not None:
                progress(index + 1, len(plan), unit)
    return parts


def on_one_device(model: LanguageModel) -> bool:
    """Tell whether two threads may start programs: over several devices, and processes, every one
    has to start them in the same order."""
    return len(model.transformer.embedding[...].devices()) == 1 and jax.process_count() == 1
