"""SHA-256 of large files, remembered between runs as long as a file stays as it is."""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from functools import cache
from pathlib import Path

# Smaller files are read anew each time.
_LEAST_BYTES = 1 << 20
# A file system's clock may be coarse: what changed this lately may change again at the same time.
_SETTLED_NS = 2_000_000_000
_HASH_LENGTH = 64

# Size, time of change in ns, inode, and the hash.
_Entry = tuple[int, int, int, str]


def cache_folder() -> Path | None:
    """Return where pie_jax keeps what it can make again: XDG_CACHE_HOME or ~/.cache, `pie_jax`.

    None, said once, where the user has no home, as in some containers.
    """
    home = os.environ.get("XDG_CACHE_HOME")
    if not home:
        try:
            home = str(Path.home() / ".cache")
        except RuntimeError:
            _warn_of_no_home()
            return None
    return Path(home) / "pie_jax"


@cache
def _warn_of_no_home() -> None:
    warnings.warn(
        "this user has no home folder: nothing is kept between runs; set XDG_CACHE_HOME to a "
        "folder for compiled programs and the hashes of large files.",
        RuntimeWarning,
        stacklevel=3,
    )


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256, without reading it where it is known from an earlier run.

    `sha256.json` in the cache folder holds size, time of change and inode beside each hash; a file
    in which one of them differs is read again.
    """
    before = path.stat()
    folder = cache_folder() if before.st_size >= _LEAST_BYTES else None
    if folder is None:
        return _read(path)
    key, store = str(path.resolve()), folder / "sha256.json"
    found = _load(store).get(key)
    if found is not None and found[:3] == _state(before):
        return found[3]
    sha256 = _read(path)
    settled = time.time_ns() - before.st_mtime_ns > _SETTLED_NS
    if settled and _state(path.stat()) == _state(before):
        # Loaded again, as another process may have written meanwhile.
        _save(store, {**_load(store), key: (*_state(before), sha256)})
    return sha256


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _state(stat: os.stat_result) -> tuple[int, int, int]:
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def _load(store: Path) -> dict[str, _Entry]:
    try:
        text = store.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        _warn(store, f"cannot be read ({type(error).__name__})")
        return {}
    try:
        entries = {key: _entry(*values) for key, values in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        _warn(store, "is damaged and will be written anew")
        return {}
    return entries


def _entry(size: object, changed: object, inode: object, sha256: object) -> _Entry:
    if not (isinstance(size, int) and isinstance(changed, int) and isinstance(inode, int)):
        raise ValueError("not numbers")
    if not isinstance(sha256, str) or len(sha256) != _HASH_LENGTH:
        raise ValueError("not a hash")
    return size, changed, inode, sha256


def _save(store: Path, entries: dict[str, _Entry]) -> None:
    """Write all entries, whole or not at all."""
    temporary = store.with_suffix(f".{os.getpid()}.tmp")
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
        temporary.replace(store)
    except OSError as error:
        _warn(store, f"cannot be written ({error.strerror})")


def _warn(store: Path, what: str) -> None:
    message = f"{store}: {what}; files are read whole to know their hashes."
    warnings.warn(message, RuntimeWarning, stacklevel=4)
