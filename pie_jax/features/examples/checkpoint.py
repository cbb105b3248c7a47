"""A pass under way on disk: written whole or not at all, and refused for another pass."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from pie_jax.errors import InputError
from pie_jax.features.corpus.windows import Place
from pie_jax.features.examples.collector import Collector
from pie_jax.features.examples.histogram import Statistics
from pie_jax.features.examples.reservoir import Entries
from pie_jax.files.atomic import replacing

_BROKEN = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)
_TABLES = ("top", "sampled", "inactive")
_TEXTS = ("index", "tokens", "length")


def save_state(
    path: Path, collector: Collector, config: dict[str, Any], place: Place, *, done: bool
) -> None:
    """Write a pass's state; `place` is where it goes on."""
    collector.compact()
    statistics = collector.statistics
    header = {
        "config": config,
        "place": place,
        "done": done,
        "windows": collector.windows,
        "tokens": statistics.tokens,
    }
    arrays: dict[str, np.ndarray] = {"header": np.frombuffer(json.dumps(header).encode(), np.uint8)}
    for name in ("active", "maximum", "fine"):
        arrays[f"statistics/{name}"] = getattr(statistics, name)
    for name in _TABLES:
        for column, values in getattr(collector, name)._asdict().items():
            arrays[f"{name}/{column}"] = values
    for name in _TEXTS:
        arrays[f"text/{name}"] = getattr(collector, name)
    with replacing(path) as temporary, temporary.open("wb") as file:
        # savez takes the names as keywords; ours hold a slash, which it keeps.
        np.savez(file, **arrays)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())


def load_state(path: Path, empty: Collector, config: dict[str, Any]) -> tuple[Place, bool]:
    """Fill an empty collector; return where to go on and whether the pass is done.

    Raises `InputError` where the file is broken or another pass's.
    """
    try:
        with path.open("rb") as file, np.load(file) as stored:
            arrays = {name: stored[name] for name in stored.files}
        header = json.loads(arrays["header"].tobytes())
        if header["config"] == config:
            _fill(empty, arrays, header)
        place, done = Place(*header["place"]), bool(header["done"])
    except _BROKEN as error:
        raise InputError(f"{path}: not the state of a pass over a corpus; delete it.") from error
    if header["config"] != config:
        raise InputError(
            f"{path}: holds an unfinished pass with {changed(header['config'], config)}; repeat "
            "its command to finish it, or delete the file."
        )
    return place, done


def changed(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Say which settings of two passes differ."""
    names = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
    return f"other settings ({', '.join(names)})"


def _fill(empty: Collector, arrays: dict[str, np.ndarray], header: dict[str, Any]) -> None:
    empty.windows = header["windows"]
    empty.statistics = Statistics(
        header["tokens"], *(arrays[f"statistics/{name}"] for name in ("active", "maximum", "fine"))
    )
    for name in _TABLES:
        columns = (arrays[f"{name}/{column}"] for column in Entries._fields)
        setattr(empty, name, Entries(*columns))
    for name in _TEXTS:
        setattr(empty, name, arrays[f"text/{name}"])
    empty.compact()
