"""Documents of files, and the windows that are cut from them."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prune_helpers import WordTokenizer
from refusals import refuses

from pie_jax.features.corpus.windows import Place, WindowBatch, window_batches
from pie_jax.files.corpus.documents import FileCorpus, TextCorpus
from pie_jax.models.tokenizer import Tokenizer

TOKENIZER = Tokenizer(WordTokenizer(), "words", 40)


def _write(path: Path, data: str | bytes) -> Path:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def _documents(*files: Path) -> list[str]:
    return list(FileCorpus(files).documents())


def _words(count: int, start: int = 0) -> str:
    return " ".join(f"w{3 + (start + i) % 37}" for i in range(count))


# Files


def test_blank_lines_separate_plain_documents(tmp_path: Path) -> None:
    text = "\ufeffone\n two\n\n \t\nthree\r\n\r\nfour"
    assert _documents(_write(tmp_path / "a.txt", text)) == ["one\n two", "three", "four"]


def test_a_text_without_blank_lines_is_cut_at_line_ends(tmp_path: Path) -> None:
    line = "x" * 999
    found = _documents(_write(tmp_path / "a.txt", "\n".join([line] * 100)))
    assert len(found) == 5
    assert "\n".join(found) == "\n".join([line] * 100)


def test_an_endless_line_is_cut_between_characters(tmp_path: Path) -> None:
    text = "ß€😀" * 40_000
    found = _documents(_write(tmp_path / "a.txt", text))
    assert len(found) > 2
    assert "".join(found) == text


def test_files_of_all_kinds_follow_each_other(tmp_path: Path) -> None:
    rows = [{"text": "two"}, {"text": " "}, {"text": "three\n\nfour", "other": 1}]
    jsonl = "\n".join(map(json.dumps, rows)) + "\n\n"
    pq.write_table(pa.table({"n": [1, 2], "text": ["five", "six"]}), tmp_path / "c.parquet")
    files = (_write(tmp_path / "a.txt", "one\n"), _write(tmp_path / "b.jsonl", jsonl))
    corpus = FileCorpus([*files, tmp_path / "c.parquet"])
    # One after another, to see the position move.
    seen = [(text, corpus._before + corpus._within) for text in corpus.documents()]
    assert [text for text, _ in seen] == ["one", "two", "three\n\nfour", "five", "six"]
    sizes = [path.stat().st_size for path in corpus.files]
    assert seen[1][1] > sizes[0]
    assert corpus._before == sum(sizes)
    assert corpus.position()[2] == "kB"
    assert [name for name, *_ in corpus.fingerprint()] == ["a.txt", "b.jsonl", "c.parquet"]


@pytest.mark.parametrize(
    ("name", "data", "where"),
    [
        ("a.txt", b"fine\n\xff\xfe\n", "a.txt, line 2"),
        ("a.txt", b"fine\n\nends in half a character \xe2\x82", "a.txt, line 3"),
        ("a.jsonl", b'{"text": "a"}\n{"text": ', "a.jsonl, line 2"),
        ("a.jsonl", b'{"text": "a"}\n\n{"text": 3}', "a.jsonl, line 3"),
        ("a.jsonl", b'["a"]', "a.jsonl, line 1"),
        ("a.jsonl", b'{"text": "\\ud800"}', "a.jsonl, line 1"),
        ("a.jsonl", b'{"text": "\xff"}', "a.jsonl, line 1"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl, line 1"),
        ("a.parquet", b"PAR1 but not really PAR1", "a.parquet"),
        ("a.parquet", b"", "a.parquet"),
    ],
)
def test_bad_files_are_named_with_their_line(
    tmp_path: Path, name: str, data: bytes, where: str
) -> None:
    path = _write(tmp_path / name, data)
    refuses(lambda: _documents(path), where)


def test_bad_parquet_columns_are_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["a"]}), tmp_path / "other.parquet")
    pq.write_table(pa.table({"text": [1]}), tmp_path / "number.parquet")
    refuses(lambda: _documents(tmp_path / "other.parquet"), "other.parquet", "`text`", "`body`")
    refuses(lambda: _documents(tmp_path / "number.parquet"), "number.parquet", "row 1")


LINES = b'{"text": "one"}\n{"text": null}\n{"id": 3, "text": "two"}\n'


@pytest.mark.parametrize(
    "name", ["c4-train.00000.json", "a.JSONL", "a.txt", "a.jsonlines", "no-ending", "a.json.gz"]
)
def test_json_lines_are_known_by_their_content(tmp_path: Path, name: str) -> None:
    assert _documents(_write(tmp_path / name, LINES)) == ["one", "two"]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_packed_files_are_unpacked(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    lines = _write(tmp_path / "a.json.gz", pack(LINES))
    text = _write(tmp_path / "b", pack(b"three\n\nfour"))
    corpus = FileCorpus([lines, text])
    assert list(corpus.documents()) == ["one", "two", "three", "four"]
    assert corpus._before == sum(path.stat().st_size for path in corpus.files)
    lines.write_bytes(pack(LINES * 9)[:-9])
    refuses(lambda: _documents(lines), lines, "damaged")


def test_tables_are_known_by_their_content(tmp_path: Path) -> None:
    for name, field in (("a.PARQUET", "text"), ("a.pq", "content"), ("a.bin", "text")):
        pq.write_table(pa.table({"n": [1, 2], field: ["one", None]}), tmp_path / name)
        assert _documents(tmp_path / name) == ["one"]
    assert _documents(_write(tmp_path / "code.jsonl", '{"content": "one"}')) == ["one"]


@pytest.mark.parametrize(
    ("name", "data", "what"),
    [
        ("a.json", b'[{"text": "a"}]', "JSON array"),
        ("a.json", b'[\n  {"text": "a"}\n]', "JSON array"),
        ("a.txt", b'[ {"text": "a"},\n', "JSON array"),
        ("a.csv", b"text\na\n", ".csv"),
        ("a.CSV.gz", gzip.compress(b"text\na\n", mtime=0), ".csv"),
        ("a.jsonl.zst", b"\x28\xb5\x2f\xfd rest", "zstd"),
        ("a.zip", b"PK\x03\x04 rest", "zip"),
        ("a.arrow", b"ARROW1\0\0", "Arrow"),
        ("a.txt", "text".encode("utf-16"), "UTF-16"),
        ("a.txt", "text".encode("utf-16-le"), "UTF-16"),
        ("a.jsonl", '{"text": "a"}'.encode("utf-16"), "UTF-16"),
        ("a.txt", b'{"id": 1, "body": "a"}\n', "`body`"),
    ],
)
def test_what_is_not_read_is_refused_by_its_name(
    tmp_path: Path, name: str, data: bytes, what: str
) -> None:
    path = _write(tmp_path / name, data)
    refuses(lambda: _documents(path), path, what)


def test_missing_files_are_named_at_once(tmp_path: Path) -> None:
    refuses(lambda: FileCorpus([]), "corpus")
    refuses(lambda: FileCorpus([tmp_path / "none.txt"]), "none.txt")
    refuses(lambda: FileCorpus([tmp_path]), tmp_path)


# Windows


def _batches(texts: list[str], **settings: object) -> list[WindowBatch]:
    settings = {"window": 6, "size": 4, **settings}
    return list(window_batches(TextCorpus(texts), TOKENIZER, **settings))  # type: ignore[arg-type]


TEXTS = [_words(5), _words(12, 7), "", _words(1, 2), _words(3, 9), _words(40, 3)]


def test_windows_hold_every_token_once_behind_bos() -> None:
    rows = [
        (int(number), row[:length].tolist())
        for batch in _batches(TEXTS)
        for number, row, length in zip(batch.number, batch.tokens, batch.length, strict=True)
        if length
    ]
    expected = []
    for text in TEXTS:
        ids = TOKENIZER.encode(text)[1:]
        expected += [[1, *ids[start : start + 5]] for start in range(0, len(ids), 5)]
    assert [tokens for _, tokens in rows] == expected
    assert [number for number, _ in rows] == list(range(len(expected)))
    # A document's last window is shorter, and the text's BOS is not doubled.
    assert {len(tokens) for tokens in expected} == {2, 3, 4, 6}


def _equal(one: list[WindowBatch], two: list[WindowBatch]) -> bool:
    return len(one) == len(two) and all(
        all(np.array_equal(a, b) for a, b in zip(x, y, strict=True))
        for x, y in zip(one, two, strict=True)
    )


def test_a_pass_goes_on_from_any_batch() -> None:
    whole = _batches(TEXTS)
    for done, batch in enumerate(whole, start=1):
        assert _equal(_batches(TEXTS, start=batch.after), whole[done:])


def test_shards_hold_the_same_batches() -> None:
    whole = _batches(TEXTS)
    parts = [_batches(TEXTS, shard=(part, 3)) for part in range(3)]
    assert all(_equal(parts[part], whole[part::3]) for part in range(3))
    first, *rest = parts[1]
    assert _equal(_batches(TEXTS, shard=(1, 3), start=first.after), rest)


def test_the_number_of_windows_can_be_limited() -> None:
    whole = _batches(TEXTS)
    limited = _batches(TEXTS, most=6)
    assert [int(batch.length.astype(bool).sum()) for batch in limited] == [4, 2]
    assert np.array_equal(limited[1].tokens[:2], whole[1].tokens[:2])
    assert _equal(_batches(TEXTS, most=6, start=limited[0].after), limited[1:])
    assert _batches(TEXTS, most=6, start=Place(8)) == []
