"""NumPy's .npz archives as memory maps, where they are not compressed."""

from __future__ import annotations

import math
import struct
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

from pie_jax.errors import InputError
from pie_jax.files.tensor_reader import require_no_pointer, some_names

_DTYPES = (np.dtype("<f4"), np.dtype("<f2"))
# A zip entry's own header: a fixed part, which ends in the lengths of a name and an extra field.
_HEADER = 30


class _Entry(NamedTuple):
    info: zipfile.ZipInfo
    shape: tuple[int, ...]
    order: Any
    dtype: np.dtype
    begin: int


class NpzFile:
    """One .npz archive, opened without reading its arrays; offers what a `TensorFile` does.

    `packed` tells whether any array is compressed: such a one is read whole each time. Raises
    `InputError` where the file is missing, truncated or no archive of numbers.
    """

    def __init__(self, path: Path):
        self.path = path
        self._entries = _read_entries(path)
        self.packed = any(
            entry.info.compress_type != zipfile.ZIP_STORED for entry in self._entries.values()
        )

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def names(self) -> list[str]:
        """Return the names of all arrays."""
        return list(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return an array's shape."""
        return self._entry(name).shape

    def tensor(self, name: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
        """Return an array, of the given shape if one is given: a memory map unless compressed."""
        entry = self._entry(name)
        if shape is not None and entry.shape != shape:
            raise InputError(
                f"{self.path}: array `{name}` has shape {list(entry.shape)}, but {list(shape)} was "
                "expected; the file does not belong to this config."
            )
        if entry.dtype not in _DTYPES:
            raise InputError(
                f"{self.path}: array `{name}` is stored as {entry.dtype}; known are float32 and "
                "float16: convert the file first."
            )
        if 0 in entry.shape:
            raise InputError(f"{self.path}: array `{name}` is empty, of shape {list(entry.shape)}.")
        if entry.info.compress_type != zipfile.ZIP_STORED:
            return self._unpacked(entry)
        begin = self._start(entry.info) + entry.begin
        return np.memmap(
            self.path, entry.dtype, mode="r", offset=begin, shape=entry.shape, order=entry.order
        )

    def number(self, name: str) -> float:
        """Return an array's only number."""
        raise InputError(f"{self.path}: a number `{name}` is not read from .npz files.")

    def _entry(self, name: str) -> _Entry:
        if name not in self._entries:
            raise InputError(
                f"{self.path}: array `{name}` is missing; the file holds "
                f"{some_names(self.names())}."
            )
        return self._entries[name]

    def _start(self, info: zipfile.ZipInfo) -> int:
        with self.path.open("rb") as file:
            file.seek(info.header_offset)
            name, extra = struct.unpack("<HH", file.read(_HEADER)[-4:])
        return info.header_offset + _HEADER + name + extra

    def _unpacked(self, entry: _Entry) -> np.ndarray:
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(entry.info) as file:
                return npy.read_array(file, allow_pickle=False)
        except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
            raise _broken(self.path) from error


def _read_entries(path: Path) -> dict[str, _Entry]:
    try:
        require_no_pointer(path)
        with zipfile.ZipFile(path) as archive:
            entries = {}
            for info in archive.infolist():
                with archive.open(info) as file:
                    entries[info.filename.removesuffix(".npy")] = _header(file, info)
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError) as error:
        raise _broken(path) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    size = path.stat().st_size
    for name, entry in entries.items():
        if entry.begin + math.prod(entry.shape) * entry.dtype.itemsize != entry.info.file_size:
            raise InputError(f"{path}: array `{name}` has the wrong size; fetch it again.")
        if entry.info.header_offset + entry.info.compress_size > size:
            raise _broken(path)
    return entries


def _header(file: Any, info: zipfile.ZipInfo) -> _Entry:
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(file)
    return _Entry(info, shape, "F" if fortran else "C", dtype, file.tell())


def _broken(path: Path) -> InputError:
    return InputError(f"{path}: not an .npz archive, or truncated; fetch it again.")
