"""Setup of a run: checked options, weights in their places, encoded pairs, its record."""

from __future__ import annotations

import hashlib
import json
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

from jax.sharding import Mesh

from pie_jax.errors import InputError
from pie_jax.files.hub import DEMO, hash_files
from pie_jax.models.loader import LanguageModel
from pie_jax.prune.batch.metrics import METRICS
from pie_jax.prune.checks import check_options
from pie_jax.prune.engine.corruptions import extended
from pie_jax.prune.on_mesh import on_mesh, whole_batches
from pie_jax.prune.options import PruneOptions
from pie_jax.prune.step import devices
from pie_jax.tasks import Pair, SkippedPair, TokenPair, encode_pairs
from pie_jax.tasks.encode import EncodedPair, Encoding
from pie_jax.transcoders.loader import require_match
from pie_jax.transcoders.store import Transcoder

_PACKAGES = ("pie-jax", "jax", "jaxlib", "flax", "transformers", "numpy")


class Run(NamedTuple):
    """What a run works on: checked options, weights in their places, encoded pairs."""

    model: LanguageModel
    transcoder: Transcoder
    options: PruneOptions
    encoded: list[EncodedPair]
    skipped: list[SkippedPair]


def opened_run(
    model: LanguageModel,
    transcoder: Transcoder,
    pairs: Sequence[Pair | TokenPair],
    options: PruneOptions | None,
    settings: dict[str, Any],
    *,
    mesh: Mesh | None,
    source: str,
) -> Run:
    """Return what `prune` works on. Raises `InputError` for what does not fit."""
    options = merged_options(options, settings)
    require_match(transcoder, model.config, model.name)
    model, transcoder = on_mesh(model, transcoder, mesh)
    options = whole_batches(options, transcoder.mesh)
    encoded, skipped = encode_pairs(
        pairs, model.tokenizer, **encoding(options), on_bad_pair=options.on_bad_pair, source=source
    )
    _require_as_many(encoded, source)
    _require_known(encoded, model.config.vocab_size, source)
    longest = max(encoded, key=lambda pair: len(pair.clean))
    model.require_positions(len(longest.clean), f"{source}: row {longest.index}")
    if options.judge_corruptions == "unseen" and len(encoded[0].corrupted) < 2:
        raise InputError(
            f"{source}: --judge-corruptions unseen needs at least 2 corrupted versions of each "
            "prompt; give `corrupted` as a list, or use same."
        )
    return Run(model, transcoder, options, extended(encoded, options, source), skipped)


def encoding(options: PruneOptions) -> Encoding:
    """Return what a run with these options asks of its pairs."""
    metric = METRICS[options.metric]
    return {
        "needs_target": metric.needs_target,
        "needs_distractor": metric.needs_distractor,
        "needs_corrupted": options.corruption == "corrupted-prompt",
        "min_tokens": options.min_tokens,
    }


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


def _require_known(pairs: Sequence[EncodedPair], size: int, source: str) -> None:
    for pair in pairs:
        ids = [i for prompt in (pair.clean, *pair.corrupted) for i in prompt]
        ids += [i for i in (pair.target_id, pair.distractor_id) if i is not None]
        if wrong := [i for i in ids if not 0 <= i < size]:
            raise InputError(
                f"{source}: row {pair.index} holds the id {wrong[0]}, but the model has the tokens "
                f"0 to {size - 1}; encode it with the model's own tokenizer."
            )


def run_config(run: Run, pairs: Sequence[Pair | TokenPair], *, stored: bool) -> dict[str, Any]:
    """Return what decides a run's numbers; two runs may share a folder only if it is equal.

    Files are hashed where a run is `stored`. Raises `InputError` where one that is to be stored has
    weights that lie in no file.
    """
    if stored:
        _require_files(run)
    text = json.dumps([asdict(pair) for pair in pairs], sort_keys=True)
    config = {
        "model": run.model.name,
        "dtype": str(run.model.transformer.embedding.dtype),
        "transcoder": run.transcoder.name,
        "sha256": {
            "model": hash_files(run.model.files()) if stored else None,
            "transcoder": hash_files(run.transcoder.files) if stored else None,
            "pairs": hashlib.sha256(text.encode()).hexdigest(),
        },
        **asdict(run.options),
    }
    # As it comes back from JSON, where tuples are lists.
    return json.loads(json.dumps(config))


def _require_files(run: Run) -> None:
    for what, one in (("model", run.model), ("transcoder", run.transcoder)):
        if one.folder is None:
            raise InputError(
                f"out: the {what} is only in memory, so that no later stage could open it; save it "
                "to a folder and load it from there, or leave `out` away."
            )


def run_record(run: Run, batches: int) -> dict[str, Any]:
    """Return what a run's record says beside its config and seconds."""
    mesh = run.transcoder.mesh
    named = (("model", run.model), ("transcoder", run.transcoder))
    first = run.model.tokenizer.first_token()
    return {
        # Where later stages find them, from whatever folder they are started.
        "folders": {
            what: str(one.folder.resolve())
            for what, one in named
            if one.folder is not None and one.name != DEMO
        },
        "first_token": None if first is None else asdict(first),
        "pairs": len(run.encoded),
        "batches": batches,
        "skipped": dict(Counter(pair.reason for pair in run.skipped)),
        "skipped_pairs": [asdict(pair) for pair in run.skipped],
        "versions": {"python": platform.python_version(), **package_versions(_PACKAGES)},
        "devices": devices(),
        "mesh": None if mesh is None else dict(mesh.shape),
    }


def package_versions(names: Sequence[str]) -> dict[str, str | None]:
    """Return the versions of packages by name, None where one is used without being installed."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found
