"""The pair record, a row of it in plain or in published spelling, and its JSONL file."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pie_jax.errors import InputError


@dataclass(frozen=True)
class Pair:
    """One clean prompt, its corrupted versions, and the two answers a metric compares.

    `target` and `distractor` are answer texts as they follow the prompt (" Mary");
    None where the metric needs none (logsumexp). With `zero-features` there need be no corrupted
    version.
    """

    clean: str
    corrupted: tuple[str, ...] = ()
    target: str | None = None
    distractor: str | None = None


@dataclass(frozen=True)
class TokenPair:
    """A pair as token ids, for a model without a tokenizer: one clean prompt, its corrupted
    versions, all of one length, and the two answers' ids."""

    clean: tuple[int, ...]
    corrupted: tuple[tuple[int, ...], ...] = ()
    target: int | None = None
    distractor: int | None = None


# Field of `Pair` -> key in the file, for each of the two spellings a row may use.
_PLAIN = {field: field for field in ("clean", "corrupted", "target", "distractor")}
_PUBLISHED = {
    "clean": "text_clean",
    "corrupted": "text_corr",
    "target": "io_clean",
    "distractor": "s_clean",
}


def columns(field: str | None = None) -> tuple[str, ...]:
    """Return the plain names of all fields, or both names of one."""
    return tuple(_PLAIN) if field is None else (_PLAIN[field], _PUBLISHED[field])


def write_pairs(path: str | Path, pairs: Sequence[Pair]) -> None:
    """Write pairs as JSONL under the plain keys, replacing the file in one step.

    Raises:
        InputError: there are no pairs, a pair could not be read back, or the path
            cannot be written.
    """
    if not pairs:
        raise InputError(f"there are no pairs to write to {path}; give at least one")
    lines = [_row_text(pair, f"{path}, line {i}") for i, pair in enumerate(pairs, start=1)]
    try:
        _replace_file(Path(path), "".join(lines))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be written ({_cause(error)}); name a file in a folder that exists "
            "and can be written to"
        ) from error


def _replace_file(path: Path, text: str) -> None:
    """Write beside the file and rename, so that a reader never sees half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _row_text(pair: Pair, where: str) -> str:
    corrupted: str | list[str] | None = list(pair.corrupted) or None
    if len(pair.corrupted) == 1:
        corrupted = pair.corrupted[0]
    row = {
        "clean": pair.clean,
        "corrupted": corrupted,
        "target": pair.target,
        "distractor": pair.distractor,
    }
    pair_from_row(row, where)
    # ASCII escapes keep a row on one line for readers that split at U+2028 too.
    return json.dumps(row) + "\n"


def pair_from_row(row: dict[str, Any], where: str) -> Pair:
    """Return the pair of a row; `where` names the row in the `InputError` of one that is none."""
    keys = _spelling(row, where)
    return Pair(
        clean=_text(_required(row, keys["clean"], where), keys["clean"], where),
        corrupted=_corrupted(row.get(keys["corrupted"]), keys["corrupted"], where),
        target=_optional_text(row, keys["target"], where),
        distractor=_optional_text(row, keys["distractor"], where),
    )


def _spelling(row: dict[str, Any], where: str) -> dict[str, str]:
    plain = [key for key in _PLAIN.values() if key in row]
    published = [key for key in _PUBLISHED.values() if key in row]
    if plain and published:
        raise InputError(
            f'{where} mixes two spellings, "{plain[0]}" and "{published[0]}"; '
            f"use only {', '.join(_PLAIN.values())} or only {', '.join(_PUBLISHED.values())}"
        )
    return _PUBLISHED if published else _PLAIN


def _required(row: dict[str, Any], key: str, where: str) -> Any:
    if key not in row:
        raise InputError(f'{where} has no field "{key}"; add it')
    return row[key]


def _optional_text(row: dict[str, Any], key: str, where: str) -> str | None:
    value = row.get(key)
    return None if value is None else _text(value, key, where)


def _corrupted(value: Any, key: str, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        return (_text(value, key, where, expected="a string or a list of strings"),)
    if not value:
        raise InputError(f'{where}: field "{key}" is an empty list; give at least one prompt')
    return tuple(_text(item, f"{key}[{i}]", where) for i, item in enumerate(value))


def _text(value: Any, key: str, where: str, *, expected: str = "a string") -> str:
    if not isinstance(value, str):
        raise InputError(f'{where}: field "{key}" is {_json_type(value)}; it must be {expected}')
    if not value:
        raise InputError(f'{where}: field "{key}" is empty; give its text')
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair, "\ud800"
        raise InputError(
            f'{where}: field "{key}" holds a lone surrogate, which is not text; replace it'
        ) from error
    return value


def _cause(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _json_type(value: Any) -> str:
    names = {type(None): "null", bool: "a boolean", dict: "an object", list: "a list"}
    numbers = {int: "a number", float: "a number"}
    return (names | numbers).get(type(value), f"of type {type(value).__name__}")
