"""Files of pairs in CSV and Parquet: the same pairs as in JSONL, and rows that are named."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pie_jax.errors import InputError
from pie_jax.tasks import Pair, read_pairs, write_pairs

HOSTILE = '</script><b>=1+1\u202e\u2066\x1b[2J, "quoted"\n😀👩‍👩‍👧 [not a list'
PAIRS = [
    Pair("a b", ("a c",), " b", " c"),
    Pair(HOSTILE, ("x", "y, z"), " b", None),
    Pair("w" * 300_000, (), None, None),
    Pair("[1] is a note", ("[2] is a note",), " b", None),
]


def as_csv(path: Path, pairs: list[Pair]) -> Path:
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "clean", "corrupted", "target", "distractor"])
        for number, pair in enumerate(pairs):
            one = pair.corrupted[0] if len(pair.corrupted) == 1 else json.dumps(pair.corrupted)
            row = (pair.clean, one if pair.corrupted else "", pair.target, pair.distractor)
            writer.writerow([number, *row])
    return path


def as_parquet(path: Path, pairs: list[Pair]) -> Path:
    rows = [vars(pair) | {"corrupted": list(pair.corrupted) or None, "id": 7} for pair in pairs]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize(
    ("write", "name"),
    [(as_csv, "p.csv"), (as_csv, "P.CSV"), (as_parquet, "p.parquet"), (as_parquet, "p.pq")],
)
def test_every_kind_of_file_holds_the_same_pairs(write, name: str, tmp_path: Path) -> None:
    assert read_pairs(write(tmp_path / name, PAIRS)) == PAIRS
    jsonl = tmp_path / "p.jsonl"
    write_pairs(jsonl, PAIRS)
    assert read_pairs(jsonl) == PAIRS


def test_a_parquet_column_of_single_texts_and_published_names(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    row = {"text_clean": "a b", "text_corr": "a c", "io_clean": " b", "s_clean": " c"}
    pq.write_table(pa.Table.from_pylist([row]), path)
    assert read_pairs(path) == [PAIRS[0]]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.csv", b"prompt,corrupted\na,b\n", ["no column 'clean'", "'prompt'"]),
        ("p.csv", b"", ["no column 'clean'", "none"]),
        ("p.csv", b"clean,corrupted\n", ["holds no pairs"]),
        ("p.csv", b"clean,target\na, b\na, b, c\n", ["row 1", "2", "double quotes"]),
        ("p.csv", b"clean,target\na\n", ["row 0", "double quotes"]),
        ("p.csv", b"clean,target\n, b\n", ["row 0", '"clean"', "null"]),
        ("p.csv", b"clean,target\n\xff, b\n", ["UTF-8"]),
        ("p.csv", b'clean,target\n"a, b\n', ["not a CSV file"]),
        ("p.csv", b'clean,corrupted\na,"[""b"", 1]"\n', ["row 0", '"corrupted[1]"', "a number"]),
        ("p.csv", b"clean,corrupted\na,[]\n", ["row 0", "empty list"]),
        ("p.parquet", b"PAR1 and no more", ["not a whole Parquet file"]),
        ("p.parquet", b"", ["not a whole Parquet file"]),
    ],
)
def test_a_bad_file_or_row_is_named(
    name: str, content: bytes, words: list[str], tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_pairs(path)
    said = str(caught.value)
    assert said.startswith(str(path))
    assert all(word in said for word in words), said
    assert "\n" not in said


def test_parquet_columns_of_other_types_are_named(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"clean": ["a", "b"], "target": [b"x", b"y"]}), path)
    with pytest.raises(InputError, match=r'row 0 .*"target" is of type bytes'):
        read_pairs(path)
    with pytest.raises(InputError, match="does not exist"):
        read_pairs(tmp_path / "none.csv")


def test_the_limit_of_fields_is_put_back(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    read_pairs(as_csv(tmp_path / "p.csv", PAIRS))
    assert csv.field_size_limit() == before
