"""Safetensors files: what is read, and that damage of any kind is one InputError."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from refusals import refuses
from safetensors.numpy import save, save_file

from pie_jax.errors import InputError
from pie_jax.files.tensor_reader import TensorFile, require_finite

TENSORS = {
    "a": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b": np.linspace(-1, 1, 5).astype(np.float16),
    "c": np.linspace(-3, 3, 7).astype(ml_dtypes.bfloat16),
    "scalar": np.asarray(2.5, np.float32),
}

settings.register_profile("files", deadline=None, suppress_health_check=list(HealthCheck))
FILES = settings.get_profile("files")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "x.safetensors", metadata={"format": "pt"})
    return tmp_path / "x.safetensors"


def read_everything(path: Path) -> None:
    file = TensorFile(path)
    for name in file.names():
        np.asarray(file.tensor(name)).sum()


def write(path: Path, header: bytes, data: bytes = b"") -> None:
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def test_reads_every_dtype_as_a_map(path: Path):
    file = TensorFile(path)
    assert sorted(file.names()) == sorted(TENSORS)
    for name, value in TENSORS.items():
        assert name in file
        assert file.shape(name) == value.shape
        read = file.tensor(name, value.shape)
        assert isinstance(read, np.memmap)
        assert read.dtype == value.dtype
        np.testing.assert_array_equal(read, value)


def test_missing_tensor(path: Path):
    file = TensorFile(path)
    refuses(lambda: file.tensor("nope"), path, "`nope`", "`a`")
    refuses(lambda: file.shape("nope"), path, "`nope`")


def test_wrong_shape(path: Path):
    refuses(lambda: TensorFile(path).tensor("a", (4, 3)), path, "`a`", "[3, 4]", "[4, 3]")


def test_missing_file(tmp_path: Path):
    refuses(lambda: TensorFile(tmp_path / "no"), tmp_path / "no", "cannot be read")
    refuses(lambda: TensorFile(tmp_path), tmp_path, "cannot be read")


@pytest.mark.parametrize("dtype", [np.int8, np.float64, np.int64, np.bool_])
def test_unknown_dtype(tmp_path: Path, dtype: type):
    path = tmp_path / "x.safetensors"
    save_file({"w": np.zeros(4, dtype)}, path)
    refuses(lambda: TensorFile(path).tensor("w"), path, "`w`", "F32, F16, BF16")


def test_empty_tensor(tmp_path: Path):
    path = tmp_path / "x.safetensors"
    save_file({"w": np.zeros((0, 3), np.float32)}, path)
    refuses(lambda: TensorFile(path).tensor("w"), path, "`w`", "empty")


def test_every_truncation_is_refused(path: Path):
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refuses(lambda: read_everything(path), path)


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "entry",
    [
        None,
        [],
        {},
        {**ENTRY, "dtype": 7},
        {**ENTRY, "shape": None},
        {**ENTRY, "shape": [-2]},
        {**ENTRY, "shape": [2.0]},
        {**ENTRY, "shape": [True, 2]},
        pytest.param({**ENTRY, "shape": [1] * 70 + [2]}, id="71 axes"),
        {**ENTRY, "data_offsets": [0]},
        {**ENTRY, "data_offsets": [8, 0]},
        {**ENTRY, "data_offsets": [-8, 0]},
        {**ENTRY, "data_offsets": ["0", "8"]},
        {**ENTRY, "data_offsets": [0, 4]},
        {**ENTRY, "data_offsets": [0, 12]},
        {**ENTRY, "data_offsets": [0, 2**70]},
        {**ENTRY, "shape": [2**70]},
    ],
    ids=str,
)
def test_damaged_entries_are_refused(tmp_path: Path, entry: object):
    path = tmp_path / "x.safetensors"
    write(path, json.dumps({"w": entry}).encode(), b"\0" * 8)
    refuses(lambda: read_everything(path), path)


def test_the_entry_that_the_damaged_ones_come_from_is_good(tmp_path: Path):
    write(tmp_path / "x.safetensors", json.dumps({"w": ENTRY}).encode(), b"\0" * 8)
    read_everything(tmp_path / "x.safetensors")


@pytest.mark.parametrize("header", [b"", b"[]", b"3", b"null", b"{", b"\xff{}", b"[" * 100_000])
def test_headers_that_are_no_mapping_are_refused(tmp_path: Path, header: bytes):
    path = tmp_path / "x.safetensors"
    write(path, header)
    refuses(lambda: read_everything(path), path)


@given(data=st.data())
@settings(FILES, max_examples=150)
def test_garbage_in_the_header_raises_nothing_but_input_error(path: Path, data: st.DataObject):
    """Overwrite, insert or cut anywhere in the header of a good file."""
    good = bytearray(save_good())
    start = data.draw(st.integers(0, 8 + struct.unpack("<Q", good[:8])[0]))
    cut = data.draw(st.integers(0, 20))
    good[start : start + cut] = data.draw(st.binary(max_size=20) | json_pieces())
    path.write_bytes(good)
    with contextlib.suppress(InputError):
        read_everything(path)


@given(
    values=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["dtype", "shape", "data_offsets", "__metadata__", "w"]), inner
            )
        ),
        max_leaves=12,
    )
)
@example(values={"w": {"dtype": "F32", "shape": [0, 2**60, 2**60], "data_offsets": [0, 0]}})
@settings(FILES, max_examples=200)
def test_any_json_header_raises_nothing_but_input_error(path: Path, values: object):
    write(path, json.dumps(values).encode(), b"\0" * 64)
    with contextlib.suppress(InputError):
        read_everything(path)


def json_pieces() -> st.SearchStrategy[bytes]:
    pieces = ['"shape":', "[", "]", "{", "}", ",", "null", "-1", "1e9", "9" * 30, '"BF16"', "NaN"]
    return st.lists(st.sampled_from(pieces), max_size=4).map(lambda p: "".join(p).encode())


def save_good() -> bytes:
    return save(TENSORS, metadata={"format": "pt"})


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_value_is_found(dtype: type, bad: float):
    values = np.ones((50, 40), dtype)
    require_finite(values, "x")
    values[31, 7] = bad
    refuses(lambda: require_finite(values, "folder: tensor `w`"), "folder: tensor `w`")


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("shape", [(), (1,), (3, 1 << 18), ((1 << 18) + 3, 1), (2, 3, 200_000)])
def test_a_bad_value_anywhere_in_an_array_of_any_shape(dtype: type, shape: tuple[int, ...]):
    values = np.ones(shape, dtype)
    require_finite(values, "x")
    for at in {(0,) * len(shape), tuple(n - 1 for n in shape)}:
        values[at] = np.nan
        refuses(lambda: require_finite(values, "x"), "x holds NaN")
        values[at] = 1
    require_finite(values.T, "x")
    require_finite(np.ones((4, 6), dtype)[::2, ::-3], "x")
    require_finite(np.ones((0, 3), dtype), "x")
    require_finite(np.ones((3, 0), dtype), "x")


def test_large_finite_values_are_no_nan():
    """The largest there are, of either sign; their sum leaves the range."""
    require_finite(np.full(100, np.finfo(np.float16).max, np.float16), "x")
    require_finite(np.full(100, np.finfo(np.float32).max, np.float32), "x")
    require_finite(np.array([np.finfo(np.float32).max, np.finfo(np.float32).min]), "x")
