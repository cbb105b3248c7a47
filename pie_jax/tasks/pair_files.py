"""Files of pairs: JSONL, CSV or Parquet, by their ending."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pie_jax.errors import InputError
from pie_jax.tasks.records import Pair, columns, pair_from_row

_READ = "name a file of pairs: JSONL, CSV or Parquet"
# A field of a CSV may be a whole book, which Python's own limit refuses.
_LONGEST_FIELD = 1 << 27


def read_pairs(path: str | Path) -> list[Pair]:
    """Read pairs from a file: CSV (.csv), Parquet (.parquet, .pq), else JSONL.

    A row uses the names clean, corrupted, target, distractor, or the published
    text_clean, text_corr, io_clean, s_clean; others are ignored. The corrupted prompt is a string
    or a list of strings, in CSV a JSON list; it and both answers may be absent, null or, in CSV,
    empty. JSONL holds one object a line; blank lines are ignored.

    Raises:
        InputError: the file or a row is unusable; names the file, row and field.
    """
    path = Path(path)
    rows = _ROWS.get(path.suffix.lower(), _jsonl_rows)
    try:
        pairs = [pair_from_row(row, where) for row, where in rows(path)]
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; {_READ}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); {_READ}") from error
    except ValueError as error:  # a name that no file can have
        raise InputError(f"{path} cannot be read ({error}); {_READ}") from error
    if not pairs:
        raise InputError(f"{path} holds no pairs; give at least one")
    return pairs


# A row, and the words that name it.
Rows = Iterator[tuple[dict[str, Any], str]]


def _jsonl_rows(path: Path) -> Rows:
    # Only "\n" ends a row: text may hold U+2028 and the like, which str.splitlines cuts at.
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            yield _parse_row(line, where, drop_bom=number == 1), where


def _parse_row(line: bytes, where: str, *, drop_bom: bool) -> dict[str, Any]:
    try:
        text = line.decode("utf-8-sig" if drop_bom else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not valid UTF-8; save the file as UTF-8") from error
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of 4,300 digits
        raise InputError(f"{where} is not valid JSON; write one JSON object per line") from error
    if not isinstance(row, dict):
        raise InputError(
            f"{where} is not a JSON object; write it as "
            '{"clean": ..., "corrupted": ..., "target": ..., "distractor": ...}'
        )
    return row


def _csv_rows(path: Path) -> Rows:
    before = csv.field_size_limit(_LONGEST_FIELD)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            names = reader.fieldnames or []
            _require_clean(path, names)
            for index, row in enumerate(reader):
                where = f"{path}, row {index} (counted from 0)"
                if None in row or None in row.values():
                    raise InputError(
                        f"{where} has not as many fields as the first line has names "
                        f"({len(names)}); put texts with commas in double quotes"
                    )
                yield {name: _field(name, text) for name, text in row.items()}, where
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not valid UTF-8; save the file as UTF-8") from error
    except csv.Error as error:
        raise InputError(f"{path} is not a CSV file ({error}); {_READ}") from error
    finally:
        csv.field_size_limit(before)


def _field(name: str, text: str) -> Any:
    """Return a field of a CSV: a list where it is one of corrupted prompts, None where empty."""
    if name in columns("corrupted") and text.startswith("["):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return text
        return found if isinstance(found, list) else text
    return text or None


def _parquet_rows(path: Path) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with path.open("rb") as file:
        try:
            names = pq.read_schema(file).names
            _require_clean(path, names)
            use = [name for field in columns() for name in columns(field) if name in names]
            rows = pq.read_table(file, columns=use).to_pylist()
        except pa.ArrowException as error:
            raise InputError(f"{path} is not a whole Parquet file; {_READ}") from error
    for index, row in enumerate(rows):
        yield row, f"{path}, row {index} (counted from 0)"


def _require_clean(path: Path, names: Iterable[str]) -> None:
    names = list(names)
    if not set(names) & set(columns("clean")):
        found = ", ".join(map(repr, names[:8])) or "none"
        raise InputError(
            f"{path} has no column 'clean', but {found}; name the columns {', '.join(columns())}"
        )


_ROWS = {".csv": _csv_rows, ".parquet": _parquet_rows, ".pq": _parquet_rows}
