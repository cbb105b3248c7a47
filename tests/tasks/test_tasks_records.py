"""The pair file: both spellings, round trips, and an error that names what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pie_jax.errors import InputError
from pie_jax.tasks import Pair, read_pairs, write_pairs

# One tmp_path serves every example of a property; each example overwrites the same file.
same_folder = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)

ROW = {"clean": "a b", "corrupted": "a c", "target": " b", "distractor": " c"}
PUBLISHED = {"text_clean": "a b", "text_corr": "a c", "io_clean": "b", "s_clean": "c"}

texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1)
pair_lists = st.lists(
    st.builds(
        Pair,
        clean=texts,
        corrupted=st.lists(texts, max_size=3).map(tuple),
        target=st.none() | texts,
        distractor=st.none() | texts,
    ),
    min_size=1,
    max_size=4,
)


def file_of(tmp_path: Path, content: bytes | str) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_reads_the_published_names_without_touching_the_answers(tmp_path: Path) -> None:
    path = file_of(tmp_path, json.dumps(PUBLISHED))
    assert read_pairs(path) == [Pair("a b", ("a c",), "b", "c")]


def test_reads_plain_names_lists_absent_answers_extra_keys_and_blank_lines(tmp_path: Path) -> None:
    many = {"clean": "x", "corrupted": ["y", "z"], "target": None, "id": [7]}
    path = file_of(tmp_path, json.dumps(ROW) + "\r\n\n  \n" + json.dumps(many) + "\n")
    assert read_pairs(str(path)) == [
        Pair("a b", ("a c",), " b", " c"),
        Pair("x", ("y", "z"), None, None),
    ]


def test_a_byte_order_mark_at_the_start_is_ignored(tmp_path: Path) -> None:
    path = file_of(tmp_path, b"\xef\xbb\xbf" + json.dumps(ROW).encode())
    assert read_pairs(path)[0].clean == "a b"


def test_unescaped_line_separators_inside_a_text_do_not_end_the_row(tmp_path: Path) -> None:
    text = "a\u2028b\u2029c\x85d"
    path = file_of(tmp_path, json.dumps({**ROW, "clean": text}, ensure_ascii=False))
    assert read_pairs(path)[0].clean == text


@same_folder
@given(pair_lists)
@example([Pair("\n\u2028\u2029\x85\r\x00\ufeff", ("\t",), " ", '"')])
def test_what_is_written_reads_back_the_same(tmp_path: Path, pairs: list[Pair]) -> None:
    path = tmp_path / "round.jsonl"
    write_pairs(path, pairs)
    assert read_pairs(path) == pairs
    assert len(path.read_text(encoding="utf-8").splitlines()) == len(pairs)
    assert [p.name for p in tmp_path.iterdir()] == ["round.jsonl"]


def test_one_corrupted_prompt_is_written_as_a_string_and_more_as_a_list(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    write_pairs(path, [Pair("a", ("b",), None, None), Pair("a", ("b", "c"), " t", " d")])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows == [
        {"clean": "a", "corrupted": "b", "target": None, "distractor": None},
        {"clean": "a", "corrupted": ["b", "c"], "target": " t", "distractor": " d"},
    ]


@same_folder
@given(st.binary(max_size=80))
@example(b"[" * 100_000)
@example(b'{"clean": ' + b"9" * 5000 + b"}")
@example(b'{"clean": NaN, "corrupted": "a"}')
@example('{"clean": "a"}'.encode("utf-16"))
def test_arbitrary_bytes_raise_nothing_but_input_error(tmp_path: Path, content: bytes) -> None:
    path = file_of(tmp_path, content)
    with pytest.raises(InputError) as caught:
        read_pairs(path)
    assert str(path) in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)


@same_folder
@given(st.dictionaries(st.sampled_from([*ROW, *PUBLISHED, "other"]), json_values))
def test_arbitrary_objects_are_pairs_or_an_input_error(
    tmp_path: Path, row: dict[str, object]
) -> None:
    path = file_of(tmp_path, json.dumps(row))
    try:
        (pair,) = read_pairs(path)
    except InputError as error:
        assert f"{path}, line 1" in str(error)  # noqa: PT017 - either outcome is right
    else:
        assert pair.clean in (row.get("clean"), row.get("text_clean"))
        assert pair.corrupted or None in (row.get("corrupted"), row.get("text_corr"))


def without(row: dict[str, str], key: str) -> dict[str, str]:
    return {name: value for name, value in row.items() if name != key}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{clean: 1}", ["not valid JSON"]),
        (b"[1]", ["not a JSON object"]),
        (b'{"clean": "\xff"}', ["UTF-8"]),
        (json.dumps(without(ROW, "clean")).encode(), ['no field "clean"']),
        (json.dumps({**ROW, "clean": 3}).encode(), ['"clean"', "a number", "string"]),
        (json.dumps({**ROW, "clean": None}).encode(), ['"clean"', "null"]),
        (json.dumps({**ROW, "target": ["b"]}).encode(), ['"target"', "a list"]),
        (json.dumps({**PUBLISHED, "s_clean": True}).encode(), ['"s_clean"', "a boolean"]),
        (json.dumps({**ROW, "corrupted": {}}).encode(), ['"corrupted"', "list of strings"]),
        (json.dumps({**ROW, "corrupted": []}).encode(), ['"corrupted"', "empty list"]),
        (json.dumps({**ROW, "corrupted": ["a", 1]}).encode(), ['"corrupted[1]"', "a number"]),
        (json.dumps({**ROW, "clean": ""}).encode(), ['"clean"', "empty"]),
        (json.dumps({**ROW, "target": ""}).encode(), ['"target"', "empty"]),
        (json.dumps({**ROW, "clean": "\ud800"}).encode(), ['"clean"', "surrogate"]),
        (json.dumps({**ROW, "io_clean": "b"}).encode(), ["mixes", '"clean"', '"io_clean"']),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_field(
    tmp_path: Path, line: bytes, words: list[str]
) -> None:
    good = json.dumps(ROW).encode()
    path = file_of(tmp_path, good + b"\n\n" + line + b"\n" + good)
    with pytest.raises(InputError) as caught:
        read_pairs(path)
    message = str(caught.value)
    assert message.startswith(f"{path}, line 3")
    assert all(word in message for word in words), message
    assert "\n" not in message
    assert ";" in message  # what to do about it


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_a_file_without_rows_is_an_error(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InputError, match="holds no pairs"):
        read_pairs(file_of(tmp_path, content))


def test_a_missing_file_a_folder_and_an_impossible_name_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_pairs(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="cannot be read"):
        read_pairs(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        read_pairs("a\0b")


@pytest.mark.parametrize("name", ["none/p.jsonl", ".", "a\0b"])
def test_an_unwritable_path_is_an_error(tmp_path: Path, name: str) -> None:
    path = f"{tmp_path}/{name}"
    with pytest.raises(InputError, match="cannot be written"):
        write_pairs(path, [Pair("a", ("b",), None, None)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        [Pair("", ("b",), None, None)],
        [Pair("a", ("\ud800",), None, None)],
    ],
)
def test_what_could_not_be_read_back_is_not_written(tmp_path: Path, pairs: list[Pair]) -> None:
    path = file_of(tmp_path, b"before")
    with pytest.raises(InputError):
        write_pairs(path, pairs)
    assert path.read_bytes() == b"before"
