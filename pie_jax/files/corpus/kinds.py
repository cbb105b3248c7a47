"""Kinds of corpus files, told by their first bytes more than by their names."""

from __future__ import annotations

import bz2
import codecs
import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pie_jax.errors import InputError

Kind = Literal["text", "jsonl", "parquet"]

_JSONL = (".jsonl", ".ndjson", ".jsonlines", ".json")
_PARQUET = (b"PAR1", (".parquet", ".pq"))
_PACKED: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
_PACKED_ENDINGS = (".gz", ".bz2", ".xz")
# By first bytes: what it is, and what to do.
_REFUSED = {
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", "unpack it, or pack it with gzip"),
    b"PK\x03\x04": ("a zip archive or a spreadsheet", "unpack it, or save it as JSONL"),
    b"ARROW1": ("an Arrow file", "save it as Parquet or JSONL"),
    b"SQLite format 3": ("a database", "save it as JSONL"),
    codecs.BOM_UTF16_LE: ("UTF-16 or UTF-32", "save it as UTF-8"),
    codecs.BOM_UTF16_BE: ("UTF-16", "save it as UTF-8"),
}
_TABLES = (".csv", ".tsv", ".arrow", ".feather", ".xlsx", ".zst", ".zip", ".tar")
_LONGEST_HEAD = 1 << 26


def kind_of(path: Path) -> Kind:
    """Return how a file is read. Raises `InputError`, naming what it is, where it is not read."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from error
    endings = [suffix.lower() for suffix in path.suffixes]
    if head.startswith(_PARQUET[0]) or endings[-1:] in ([end] for end in _PARQUET[1]):
        return "parquet"
    with opened(path) as (file, _):
        return _kind_inside(file, path, endings)


@contextmanager
def opened(path: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Yield a file's bytes, unpacked where it is compressed, and the file itself."""
    try:
        with path.open("rb") as raw:
            head = raw.read(16)
            raw.seek(0)
            unpack = next((one for mark, one in _PACKED.items() if head.startswith(mark)), None)
            if unpack is None:
                yield raw, raw
            else:
                with unpack(raw, "rb") as file:
                    yield file, raw
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is damaged or not complete; fetch it again.") from error
    except OSError as error:
        cause = error.strerror or str(error)
        raise InputError(f"{path} cannot be read ({cause}).") from error


def _kind_inside(file: BinaryIO, path: Path, endings: list[str]) -> Kind:
    first = file.readline(_LONGEST_HEAD)
    for mark, (what, remedy) in _REFUSED.items():
        if first.startswith(mark):
            raise InputError(f"{path} is {what}, which is not read; {remedy}.")
    while first and not first.strip():
        first = file.readline(_LONGEST_HEAD)
    if b"\0" in first[: 1 << 12]:
        raise InputError(f"{path} holds zero bytes: it is UTF-16, or not text; save it as UTF-8.")
    names = [end for end in endings if end not in _PACKED_ENDINGS]
    if names and names[-1] in _TABLES:
        raise InputError(f"{path} is a {names[-1]} file, which is not read; save it as JSONL.")
    start = first.removeprefix(codecs.BOM_UTF8).strip()
    named = bool(names) and names[-1] in _JSONL
    if start.replace(b" ", b"").startswith(b"[{") or start == b"[" or (named and start == b"[]"):
        raise InputError(f"{path} is one JSON array, which is not read; write an object per line.")
    return "jsonl" if named or _is_object(start) else "text"


def _is_object(line: bytes) -> bool:
    if not line.startswith(b"{"):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
