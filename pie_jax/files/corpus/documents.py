"""Documents of text files, read as a stream: no file is ever in memory as a whole."""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

from pie_jax.errors import InputError
from pie_jax.files.corpus.kinds import kind_of, opened

# A plain text without blank lines is cut at line ends into documents of about this many
# characters; a line longer than _LINE bytes is cut as well.
_PIECE = 20_000
_LINE = 1 << 16
_ROWS = 256
_EDGE = 1 << 20
# Where a row's text stands: the first of these that it has.
_FIELDS = ("text", "content")


@runtime_checkable
class Corpus(Protocol):
    """Anything that yields documents, always in the same order."""

    def documents(self) -> Iterator[str]:
        """Yield the documents, from the first."""
        ...

    def fingerprint(self) -> list[list[str]]:
        """Return what tells this corpus from another one, as JSON keeps it."""
        ...

    def position(self) -> tuple[int, int, str]:
        """Return how much was read, of how much, and the unit."""
        ...


class TextCorpus:
    """Documents in memory."""

    def __init__(self, texts: Sequence[str]):
        self._texts, self._done = texts, 0

    def documents(self) -> Iterator[str]:
        """Yield the documents that hold more than white space."""
        for number, text in enumerate(self._texts, start=1):
            if text.strip():
                yield text
            self._done = number

    def fingerprint(self) -> list[list[str]]:
        """Return the SHA-256 of all documents."""
        digest = hashlib.sha256(json.dumps(list(self._texts)).encode())
        return [["texts", digest.hexdigest()]]

    def position(self) -> tuple[int, int, str]:
        """Return documents read and their number."""
        return self._done, len(self._texts), "documents"


class FileCorpus:
    """Files of plain text, JSONL (`{"text": ...}` a line) or Parquet (a column `text`).

    What a file is follows from its content, whatever it is called; gzip, bzip2 and xz are unpacked
    on the way. `content` is read where there is no `text`, and a null is no document. Plain text:
    blank lines separate documents. Raises `InputError` naming the file, and the line
    or row, that cannot be used; files that are missing are named at once.
    """

    def __init__(self, files: Sequence[str | Path]):
        if not files:
            raise InputError("no corpus file is given; name at least one text file.")
        self.files = [_require_file(path) for path in files]
        self._before, self._within = 0, 0

    def documents(self) -> Iterator[str]:
        """Yield the documents of all files, in order, that hold more than white space."""
        self._before = 0
        for path in self.files:
            self._within = 0
            for text in self._read(path):
                if text.strip():
                    yield text
            self._before += path.stat().st_size
        self._within = 0

    def fingerprint(self) -> list[list[str]]:
        """Return name, size and SHA-256 of both ends of every file."""
        return [[path.name, str(path.stat().st_size), _ends(path)] for path in self.files]

    def position(self) -> tuple[int, int, str]:
        """Return kilobytes read and their number."""
        total = sum(path.stat().st_size for path in self.files)
        return (self._before + self._within) // 1000, total // 1000, "kB"

    def _read(self, path: Path) -> Iterator[str]:
        kind = kind_of(path)
        if kind == "parquet":
            yield from self._parquet(path)
            return
        with opened(path) as (file, raw):
            yield from (self._jsonl if kind == "jsonl" else self._text)(file, raw, path)

    def _text(self, file: BinaryIO, raw: BinaryIO, path: Path) -> Iterator[str]:
        piece: list[str] = []
        size = 0
        for line in self._text_lines(file, raw, path):
            if line.strip():
                piece.append(line)
                size += len(line)
            if size >= _PIECE or (piece and not line.strip()):
                yield "".join(piece).strip("\r\n")
                piece, size = [], 0
        yield "".join(piece).strip("\r\n")

    def _text_lines(self, file: BinaryIO, raw: BinaryIO, path: Path) -> Iterator[str]:
        # A long line comes in several reads, which may part the bytes of a character.
        decoder, number = codecs.getincrementaldecoder("utf-8-sig")(), 1
        while data := file.readline(_LINE):
            self._within = raw.tell()
            try:
                yield decoder.decode(data, final=data.endswith(b"\n"))
            except UnicodeDecodeError as error:
                raise _not_utf8(f"{path}, line {number}") from error
            number += data.endswith(b"\n")
        try:
            yield decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise _not_utf8(f"{path}, line {number}") from error

    def _jsonl(self, file: BinaryIO, raw: BinaryIO, path: Path) -> Iterator[str]:
        for number, line in enumerate(file, start=1):
            self._within = raw.tell()
            if line.strip():
                yield _row_text(line, f"{path}, line {number}")

    def _parquet(self, path: Path) -> Iterator[str]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        size, row = path.stat().st_size, 0
        try:
            with pq.ParquetFile(path) as file:
                names = file.schema_arrow.names
                field = _field(names, str(path), "column")
                for batch in file.iter_batches(_ROWS, columns=[field]):
                    for value in batch.column(0).to_pylist():
                        row += 1
                        yield _string(value, field, f"{path}, row {row}")
                    self._within = size * row // max(file.metadata.num_rows, 1)
        except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
            raise InputError(
                f"{path} is not a Parquet file that can be read; write it again."
            ) from error


def _row_text(line: bytes, where: str) -> str:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise _not_utf8(where) from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f'{where} is not valid JSON; write one {{"text": ...}} object per line.'
        ) from error
    if not isinstance(row, dict):
        raise InputError(f'{where} is not a JSON object; write {{"text": ...}}.')
    field = _field(list(row), where, "field")
    text = _string(row[field], field, where)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair
        raise InputError(
            f"{where} holds a lone surrogate, which is not text; remove it."
        ) from error
    return text


def _field(names: Sequence[str], where: str, what: str) -> str:
    """Return the name of the field with the text."""
    found = next((name for name in _FIELDS if name in names), None)
    if found is None:
        shown = ", ".join(f"`{name}`" for name in names[:8]) or "nothing"
        raise InputError(
            f"{where} has no {what} `text` or `content` but {shown}; rename the one with the text."
        )
    return found


def _string(value: object, field: str, where: str) -> str:
    """Return a row's text; a row without any, which data sets have, is an empty document."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InputError(f"{where} has no string under `{field}`; write its text there.")
    return value


def _not_utf8(where: str) -> InputError:
    return InputError(f"{where} is not valid UTF-8; save the file as UTF-8.")


def _require_file(path: str | Path) -> Path:
    if not Path(path).is_file():
        raise InputError(f"{path} is not a file; name a text, JSONL or Parquet file.")
    return Path(path)


def _ends(path: Path) -> str:
    # Hashing a corpus of many gigabytes would take longer than what it guards against is worth.
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(_EDGE))
        file.seek(max(0, path.stat().st_size - _EDGE))
        digest.update(file.read(_EDGE))
    return digest.hexdigest()
