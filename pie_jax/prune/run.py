"""The pruning stage from pairs to tables: the library's entry, which the command line calls."""

from __future__ import annotations

import hashlib
import json
import platform
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from pie_jax.errors import InputError
from pie_jax.hub import hash_files
from pie_jax.models.loader import LanguageModel
from pie_jax.prune.ahead import prepared
from pie_jax.prune.batches import PairBatch, batches
from pie_jax.prune.checks import check_options
from pie_jax.prune.metrics import METRICS
from pie_jax.prune.on_mesh import on_mesh, whole_batches
from pie_jax.prune.options import PruneOptions
from pie_jax.prune.results import PruneResult, assemble
from pie_jax.prune.shared_folder import SharedFolder
from pie_jax.prune.step import Columns, Pruner, devices
from pie_jax.tasks import Pair, SkippedPair, encode_pairs
from pie_jax.tasks.encode import EncodedPair
from pie_jax.transcoders.loader import require_match
from pie_jax.transcoders.stored import Transcoder

# done, total, what is being done
Progress = Callable[[int, int, str], None]
_PACKAGES = ("pie-jax", "jax", "jaxlib", "flax", "transformers", "numpy")


def prune(
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
) -> PruneResult:
    """Score, select and judge the features that carry a behaviour (PIE, arXiv 2604.16889).

    `settings` are fields of `PruneOptions`, such as `methods=("fap",)` and `budgets=(10, 20)`.
    With `out`, results are written there batch by batch; repeating the call resumes. `source`
    names the pairs in errors. On a `mesh` (by default the one that the weights were loaded on)
    prompts and weights are spread over its devices, and several processes are one run of which
    process 0 writes. Raises `InputError` for settings, pairs or weights that do not fit.
    """
    options = merged_options(options, settings)
    require_match(transcoder, model.config, model.name)
    model, transcoder = on_mesh(model, transcoder, mesh)
    options = whole_batches(options, transcoder.mesh)
    encoded, skipped = encode_pairs(
        pairs,
        model.tokenizer,
        needs_target=METRICS[options.metric].needs_target,
        on_bad_pair=options.on_bad_pair,
        source=source,
    )
    _require_as_many(encoded, source)
    if options.judge_corruptions == "unseen" and len(encoded[0].corrupted) < 2:
        raise InputError(
            f"{source}: --judge-corruptions unseen needs at least 2 corrupted versions of each "
            "prompt; give `corrupted` as a list, or use same."
        )
    plan = batches(encoded, options.batch_size)
    config = _config(model, transcoder, pairs, options)
    folder = None if out is None else SharedFolder(Path(out), config)
    if folder is not None and (done := folder.finished()) is not None:
        return done
    record = _record(skipped, len(encoded), plan_size=len(plan))
    record["mesh"] = None if transcoder.mesh is None else dict(transcoder.mesh.shape)
    if folder is not None:
        folder.begin(record)
    pruner = Pruner(model, transcoder, options)
    parts = _parts(pruner, plan, folder, progress, ahead=_on_one_device(model))
    record["seconds"] = {name: round(value, 3) for name, value in pruner.seconds.items()}
    result = PruneResult(**assemble(parts, options.methods), record=record)
    if folder is not None:
        folder.complete(result)
    return replace(result, record={"status": "complete", "config": config, **record})


def _parts(
    pruner: Pruner,
    plan: Sequence[PairBatch],
    folder: SharedFolder | None,
    progress: Progress | None,
    *,
    ahead: bool,
) -> list[dict[str, Columns]]:
    """Return the columns of every batch; those that the folder has are not computed."""
    found = [None if folder is None else folder.part(index) for index in range(len(plan))]
    missing = [batch for batch, part in zip(plan, found, strict=True) if part is None]
    parts = []
    with closing(prepared(pruner.prepare, missing, ahead=ahead)) as ready:
        for index, (batch, part) in enumerate(zip(plan, found, strict=True)):
            if part is None:
                with pruner.stage("next batch"):
                    taken = [next(ready)]
                # Nothing here keeps a batch's arrays while the next one is awaited.
                part = pruner.measure(batch, taken.pop())
                if folder is not None:
                    folder.save_part(index, part)
            parts.append(part)
            if progress is not None:
                progress(index + 1, len(plan), "batches")
    return parts


def _on_one_device(model: LanguageModel) -> bool:
    """Tell whether two threads may start programs: over several devices, and processes, every one
    has to start them in the same order."""
    return len(model.transformer.embedding[...].devices()) == 1 and jax.process_count() == 1


def merged_options(options: PruneOptions | None, settings: dict[str, Any]) -> PruneOptions:
    """Return the options with some replaced. Raises `InputError` for what means nothing."""
    base = options or PruneOptions()
    unknown = sorted(set(settings) - set(asdict(base)))
    if unknown:
        known = ", ".join(asdict(base))
        raise InputError(f"prune: `{unknown[0]}` is not a setting; known are {known}.")
    for name in ("methods", "budgets"):
        if name in settings:
            settings[name] = tuple(settings[name])
    merged = replace(base, **settings)
    check_options(merged)
    return merged


def _require_as_many(pairs: Sequence[EncodedPair], source: str) -> None:
    first = pairs[0]
    for pair in pairs:
        if len(pair.corrupted) != len(first.corrupted):
            raise InputError(
                f"{source}: row {pair.index} has {len(pair.corrupted)} corrupted versions and row "
                f"{first.index} has {len(first.corrupted)}; give every pair as many."
            )


def _config(
    model: LanguageModel, transcoder: Transcoder, pairs: Sequence[Pair], options: PruneOptions
) -> dict[str, Any]:
    """Return what decides a run's numbers; two runs may share a folder only if it is equal."""
    text = json.dumps([asdict(pair) for pair in pairs], sort_keys=True)
    config = {
        "model": model.name,
        "dtype": str(model.transformer.embedding.dtype),
        "transcoder": transcoder.name,
        "sha256": {
            "model": hash_files(model.files()),
            "transcoder": hash_files(transcoder.files),
            "pairs": hashlib.sha256(text.encode()).hexdigest(),
        },
        **asdict(options),
    }
    # As it comes back from JSON, where tuples are lists.
    return json.loads(json.dumps(config))


def _record(skipped: Sequence[SkippedPair], kept: int, plan_size: int) -> dict[str, Any]:
    return {
        "pairs": kept,
        "batches": plan_size,
        "skipped": dict(Counter(pair.reason for pair in skipped)),
        "skipped_pairs": [asdict(pair) for pair in skipped],
        "versions": {"python": platform.python_version(), **{p: version(p) for p in _PACKAGES}},
        "devices": devices(),
    }
