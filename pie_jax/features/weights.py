"""The weights of a finished run, found again for a later stage and checked to be the same."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pie_jax.errors import InputError
from pie_jax.files.hub import hash_files, is_pattern
from pie_jax.models.loader import (
    TOKENIZER_FILES,
    LanguageModel,
    load_model,
    load_model_tokenizer,
)
from pie_jax.models.tokenizer import Tokenizer
from pie_jax.prune.results.tables import PruneResult
from pie_jax.prune.task_circuits.results import TaskResult
from pie_jax.transcoders.loader import load_transcoder
from pie_jax.transcoders.store import Transcoder


def load_weights(
    result: PruneResult | TaskResult,
    model: LanguageModel | str | None = None,
    transcoder: Transcoder | str | None = None,
) -> tuple[LanguageModel, Transcoder]:
    """Return a run's model and transcoder, or the ones given; encoders stay on disk.

    Raises `InputError` where they are not found, or are not those that the run was made with.
    """
    config = result.record["config"]
    # By the names of the run, wherever they lie.
    if not isinstance(model, LanguageModel):
        place = model or _place(result, "model")
        model = replace(load_model(place, config["dtype"]), name=config["model"])
    if not isinstance(transcoder, Transcoder):
        # Only the rows of the features asked for are read.
        place = transcoder or _place(result, "transcoder")
        loaded = load_transcoder(place, encoders_on_disk=True)
        transcoder = replace(loaded, name=config["transcoder"])
    _require_same(result, "model", model.folder or Path(model.name), model.files())
    _require_same(result, "transcoder", Path(transcoder.where), transcoder.files)
    return model, transcoder


def load_tokenizer_of(result: PruneResult | TaskResult, model: str | None = None) -> Tokenizer:
    """Return the tokenizer of a run's model, or of the one given; raises as `load_weights`."""
    tokenizer = load_model_tokenizer(model or _place(result, "model"))
    folder = Path(tokenizer.source)
    there = [folder / name for name in TOKENIZER_FILES if (folder / name).exists()]
    _require_same(result, "model", folder, there, TOKENIZER_FILES)
    return tokenizer


def _place(result: PruneResult | TaskResult, what: str) -> str:
    """Return the folder that a run had its weights from, or what the run calls them."""
    record: dict[str, Any] = result.record
    folder, name = record.get("folders", {}).get(what), record["config"][what]
    if folder is None or Path(folder).is_dir() or is_pattern(Path(folder)):
        return folder or name
    # A hub id, whose folder in the hub's cache has another name, can be fetched again.
    if Path(folder).name == Path(name).name and not Path(name).expanduser().is_dir():
        raise InputError(
            f"{folder}: the run's {what} is no longer here; name its folder with --{what}."
        )
    return name


def _require_same(
    result: PruneResult | TaskResult,
    what: str,
    folder: Path,
    files: Iterable[Path],
    names: Iterable[str] | None = None,
) -> None:
    """Raise `InputError` where files, or those of some names, are not what the run recorded."""
    recorded, found = result.record["config"]["sha256"][what], hash_files(files)
    every = {*recorded, *found} if names is None else {*recorded, *found}.intersection(names)
    other = sorted(name for name in every if recorded.get(name) != found.get(name))
    if other:
        raise InputError(
            f"{folder / other[0]}: not what the run was made with (its SHA-256 is another than in "
            f"run.json); restore the {what}, name the run's own with --{what}, or prune anew."
        )
