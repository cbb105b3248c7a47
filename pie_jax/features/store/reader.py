"""Published feature stores: examples that somebody else has collected.

The layout: `features/index.json.gz` maps a layer to a file and offsets; a feature's record is the
bytes between two offsets, a 4-byte little-endian length and gzipped JSON.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from pie_jax.errors import InputError
from pie_jax.features.records import FeatureKey
from pie_jax.features.store.http import Broken, HttpFiles
from pie_jax.features.store.records import StoreRecord, parse_record
from pie_jax.llm.sending.waiting import wait_for

_FOLDER = "features"
_INDEX = "index.json.gz"
_HEAD = 4


@dataclass(frozen=True)
class StoreResult:
    """What a store has of the features asked for, in their order.

    `missing` are not in the store; `failed` are, but could not be read: key to the reason.
    """

    records: list[StoreRecord]
    missing: list[FeatureKey]
    failed: dict[FeatureKey, str]


@runtime_checkable
class Files(Protocol):
    """Where a store's files lie."""

    async def whole(self, name: str) -> bytes:
        """Return a file of the folder `features`."""
        ...

    async def part(self, name: str, start: int, end: int) -> bytes:
        """Return bytes [start, end) of one; raises `Broken` for this part alone."""
        ...

    def keep(self, name: str, start: int, end: int, data: bytes) -> None:
        """Remember a part that has proved sound."""
        ...

    async def close(self) -> None:
        """Close connections and files."""
        ...


class _Span(NamedTuple):
    file: str
    start: int
    end: int


def read_store(
    source: str | Path,
    keys: Sequence[FeatureKey],
    *,
    cache: str | Path | None = None,
    concurrency: int = 8,
    retries: int = 5,
    timeout: float = 60.0,
) -> StoreResult:
    """Read features from a store, a folder or an http(s) address that holds `features/`.

    Over HTTP at most `concurrency` requests run at a time, each is repeated up to `retries` times
    where that can help, and records are kept in the folder `cache`. Raises `InputError` where there
    is no store or no access, `PieError` where the server cannot be reached; a record that is broken
    is listed in the result.
    """
    return wait_for(
        read_store_async(
            source, keys, cache=cache, concurrency=concurrency, retries=retries, timeout=timeout
        )
    )


async def read_store_async(
    source: str | Path,
    keys: Sequence[FeatureKey],
    *,
    cache: str | Path | None = None,
    concurrency: int = 8,
    retries: int = 5,
    timeout: float = 60.0,
) -> StoreResult:
    """Do what `read_store` does, inside a running event loop."""
    keys = [FeatureKey(*key) for key in keys]
    files: Files
    if str(source).startswith(("http://", "https://")):
        address = f"{str(source).rstrip('/')}/{_FOLDER}"
        files = HttpFiles(
            address, None if cache is None else Path(cache), concurrency, retries, timeout
        )
    else:
        files = _LocalFiles(Path(source) / _FOLDER)
    try:
        index = _parse_index(await files.whole(_INDEX), source)
        spans = {key: _span(index, key, source) for key in keys}
        present = {key: span for key, span in spans.items() if span is not None}
        async with asyncio.TaskGroup() as group:
            tasks = {
                key: group.create_task(_read(files, key, span)) for key, span in present.items()
            }
    except* InputError as group:
        # One refusal is enough: the others are of the same server.
        raise group.exceptions[0] from None
    finally:
        await files.close()
    found = {key: task.result() for key, task in tasks.items()}
    return StoreResult(
        records=[one for one in found.values() if isinstance(one, StoreRecord)],
        missing=[key for key in keys if key not in present],
        failed={key: one for key, one in found.items() if isinstance(one, str)},
    )


async def _read(files: Files, key: FeatureKey, span: _Span) -> StoreRecord | str:
    """Return a feature's record, or in words why there is none."""
    where = f"feature {key.feature} of layer {key.layer}"
    try:
        data = await files.part(*span)
        record = parse_record(key, _decode(data))
    except Broken as error:
        return f"{where}: {error}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, EOFError) as error:
        return f"{where}: the record is broken ({type(error).__name__})"
    except (OSError, zlib.error) as error:
        return f"{where}: the record is not gzip ({type(error).__name__})"
    files.keep(*span, data)
    return record


def _decode(data: bytes) -> Any:
    if len(data) < _HEAD:
        raise Broken("the record is shorter than its header")
    length = struct.unpack("<I", data[:_HEAD])[0]
    if _HEAD + length > len(data):
        raise Broken(f"the record announces {length} bytes, {len(data) - _HEAD} are there")
    return json.loads(gzip.decompress(data[_HEAD : _HEAD + length]))


def _parse_index(data: bytes, source: str | Path) -> dict[str, dict[str, Any]]:
    where = f"{source}: {_FOLDER}/{_INDEX}"
    try:
        index = json.loads(gzip.decompress(data))
        if not isinstance(index, dict):
            raise ValueError("not an object")
        for entry in index.values():
            name, offsets = entry["filename"], entry["offsets"]
            # A name that leads elsewhere would read other files of this machine.
            if Path(name).name != name or name in ("", ".", ".."):
                raise ValueError("not a file name")
            if not all(isinstance(offset, int) for offset in offsets):
                raise ValueError("not offsets")
    except (
        OSError,
        zlib.error,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:
        raise InputError(f"{where} is not the index of a feature store.") from error
    return index


def _span(index: dict[str, dict[str, Any]], key: FeatureKey, source: str | Path) -> _Span | None:
    entry = index.get(str(key.layer))
    if entry is None:
        return None
    offsets = entry["offsets"]
    if not 0 <= key.feature < len(offsets) - 1:
        return None
    start, end = offsets[key.feature : key.feature + 2]
    return _Span(entry["filename"], start, end) if 0 <= start < end else None


class _LocalFiles:
    """A store in a folder: reads seek to their place."""

    def __init__(self, folder: Path):
        self._folder = folder

    async def whole(self, name: str) -> bytes:
        try:
            return (self._folder / name).read_bytes()
        except OSError as error:
            raise InputError(
                f"{self._folder / name}: cannot be read ({error.strerror}); name the folder that "
                f"holds `{_FOLDER}/`."
            ) from error

    async def part(self, name: str, start: int, end: int) -> bytes:
        try:
            with (self._folder / name).open("rb") as file:
                file.seek(start)
                return file.read(end - start)
        except OSError as error:
            raise Broken(f"{name} cannot be read ({error.strerror})") from error

    def keep(self, name: str, start: int, end: int, data: bytes) -> None:
        """Local files need no copy."""

    async def close(self) -> None:
        """Nothing stays open."""
