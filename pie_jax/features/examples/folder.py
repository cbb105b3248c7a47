"""The folder that examples are collected in: whose run it is, and whether it is complete."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pie_jax.errors import InputError
from pie_jax.features.examples.checkpoint import changed
from pie_jax.features.examples.table import EXAMPLES
from pie_jax.features.records import FeatureExamples, FeatureKey
from pie_jax.files.atomic import replacing
from pie_jax.files.hub import hash_files
from pie_jax.models.loader import LanguageModel
from pie_jax.transcoders.store import Transcoder

RECORD = "examples.json"


def make_folder(path: Path) -> Path:
    """Return the folder, made if need be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); name another folder."
        ) from error
    return path


def describe(
    model: LanguageModel,
    transcoder: Transcoder,
    keys: Sequence[FeatureKey],
    source: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what decides the examples, as JSON keeps it; `source` is where they come from, and
    how."""
    config = {
        "model": model.name,
        "dtype": str(model.transformer.embedding.dtype),
        "transcoder": transcoder.name,
        "sha256": {
            "model": hash_files(model.files()),
            "transcoder": hash_files(transcoder.files),
            "features": hashlib.sha256(json.dumps(keys).encode()).hexdigest(),
        },
        **source,
    }
    # As it comes back from JSON, where tuples are lists.
    return json.loads(json.dumps(config))


def check_run(folder: Path, config: dict[str, Any]) -> None:
    """Refuse the results folder of a pruning run with another model or transcoder."""
    path = folder / "run.json"
    if not path.exists():
        return
    try:
        run = json.loads(path.read_text(encoding="utf-8"))["config"]["sha256"]
        other = [kind for kind in ("model", "transcoder") if run[kind] != config["sha256"][kind]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a run's record; name another folder.") from error
    if other:
        raise InputError(
            f"{folder}: was pruned with another {other[0]} than {config[other[0]]}; give the one "
            "that run.json names."
        )


def is_finished(folder: Path, config: dict[str, Any]) -> bool:
    """Tell whether these examples are there; other ones are an `InputError`."""
    record = load_record(folder)
    if record is None:
        return False
    found = record["config"]
    if found != config:
        raise InputError(
            f"{folder}: holds examples with {changed(found, config)}; delete {RECORD} and "
            f"{EXAMPLES} to collect anew."
        )
    return True


def state_path(folder: Path, part: int, parts: int) -> Path:
    """Return where a shard leaves its state."""
    return folder / f"examples-state-{part}-of-{parts}.npz"


def complete(
    folder: Path, config: dict[str, Any], found: Sequence[FeatureExamples], figures: dict[str, Any]
) -> None:
    """Write the record that makes the examples complete, and drop the states."""
    never_fired = [list(one.key) for one in found if not one.tokens_active]
    counts = {"never_fired": never_fired, "tokens": found[0].tokens_seen}
    save_record(folder, config, len(found), {**counts, **figures})
    for part in range(config["shards"]):
        state_path(folder, part, config["shards"]).unlink(missing_ok=True)


def save_record(folder: Path, config: dict[str, Any], features: int, more: dict[str, Any]) -> None:
    """Write examples.json, whole or not at all."""
    record = {"config": config, "features": features, **more}
    with replacing(folder / RECORD) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def load_record(folder: str | Path) -> dict[str, Any] | None:
    """Return the record of a folder's examples, None where there is none."""
    path = Path(folder) / RECORD
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        record["config"]["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a record of examples; delete it.") from error
    return record
