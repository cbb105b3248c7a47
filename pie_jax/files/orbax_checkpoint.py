"""Folders of orbax checkpoints: a manifest that says what is there, and arrays for any mesh."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding

from pie_jax.devices.placement import weight_spec
from pie_jax.errors import InputError
from pie_jax.files.tensor_reader import require_finite

MANIFEST = "pie_jax.json"
VERSION = 1
Arrays = dict[str, jax.Array]


def write_manifest(folder: Path, kind: str, content: Mapping[str, Any]) -> None:
    """Say what a folder holds; it comes last: without it the folder is nothing."""
    text = json.dumps({"format": kind, "version": VERSION, **content}, indent=2)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def is_kind(folder: Path, kind: str) -> bool:
    """Tell whether a folder's manifest announces this kind."""
    return (folder / MANIFEST).exists() and _read(folder / MANIFEST).get("format") == kind


def read_manifest(folder: Path, kind: str) -> dict[str, Any]:
    """Return the manifest of a folder of this kind; another version is an `InputError`."""
    path = folder / MANIFEST
    manifest = _read(path)
    if (manifest.get("format"), manifest.get("version")) != (kind, VERSION):
        raise InputError(
            f"{path}: is `{manifest.get('format')}` version {manifest.get('version')}, but only "
            f"`{kind}` version {VERSION} is handled; convert the weights again."
        )
    return manifest


def _read(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON; convert the weights again.") from error
    if not isinstance(manifest, dict):
        raise InputError(f"{path}: must hold one JSON object; convert the weights again.")
    return manifest


def save_arrays(folder: Path, arrays: Arrays) -> dict[str, str]:
    """Write arrays as one orbax checkpoint, every array its own leaf, and return their SHA-256."""
    digests = {}
    for name, array in arrays.items():
        host = np.asarray(array)
        require_finite(host, f"{folder}: `{name}`")
        digests[name] = hashlib.sha256(host.tobytes()).hexdigest()
    _orbax().save(folder.absolute(), arrays)
    return digests


def load_arrays(
    folder: Path, wanted: Mapping[str, jax.ShapeDtypeStruct], mesh: Mesh | None, prefix: str = ""
) -> Arrays:
    """Restore arrays, each shard straight to its device; `prefix` + name is a name of
    `MODEL_AXES`. Raises `InputError` where the checkpoint holds others or is damaged.
    """
    like = {
        name: jax.ShapeDtypeStruct(
            array.shape, array.dtype, sharding=_sharding(prefix + name, array.shape, mesh)
        )
        for name, array in wanted.items()
    }
    try:
        return _orbax().load(folder.absolute(), like)
    except Exception as error:  # orbax and its storage raise many types
        raise InputError(
            f"{folder}: the checkpoint is damaged or does not belong to this config "
            f"({type(error).__name__}); convert the weights again."
        ) from error


def _orbax() -> Any:
    # It takes a second to import, which folders of other formats need not wait for.
    from orbax.checkpoint import v1

    return v1


def _sharding(name: str, shape: tuple[int, ...], mesh: Mesh | None) -> jax.sharding.Sharding:
    if mesh is None:
        return SingleDeviceSharding(jax.local_devices()[0])
    return NamedSharding(mesh, weight_spec(name, shape, mesh))


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; it becomes `out` only if nothing fails.

    Raises `InputError` where `out` is a file, or a folder that holds something.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out}: is there already; name a new or empty folder.")
    draft = out.parent / f".{out.name}.partial"
    # What an interrupted conversion left.
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
    except OSError as error:
        raise InputError(
            f"--out {out}: cannot be written ({error.strerror}); name another folder."
        ) from error
    yield draft
    os.replace(draft, out)
