"""Safetensors files as memory maps: only the bytes that are touched are read."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import ml_dtypes
import numpy as np

from pie_jax.errors import InputError

_DTYPES: dict[str, np.dtype] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_NUMBERS = {**_DTYPES, "I64": np.dtype("<i8"), "I32": np.dtype("<i4")}
_MOST_AXES = 8
_POINTER = b"version https://git-lfs"
# Values that are checked at a time: they stay in the processor's cache.
_FINITE_BLOCK = 1 << 18


class TensorFile:
    """One safetensors file, opened without reading its tensors.

    Raises `InputError` where the file is missing, truncated or not safetensors.
    """

    def __init__(self, path: Path):
        self.path = path
        self._entries, self._start = _read_header(path)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def names(self) -> list[str]:
        """Return the names of all tensors."""
        return list(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape."""
        return tuple(self._entry(name)["shape"])

    def tensor(self, name: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
        """Return a memory map of a tensor, of the given shape if one is given."""
        found = tuple(self._entry(name)["shape"])
        if shape is not None and found != shape:
            raise InputError(
                f"{self.path}: tensor `{name}` has shape {list(found)}, but {list(shape)} was "
                "expected; the file does not belong to this config."
            )
        return self._map(name, _DTYPES)

    def number(self, name: str) -> float:
        """Return the only number of a tensor, which may be a whole one."""
        values = self._map(name, _NUMBERS)
        if values.size != 1:
            raise InputError(
                f"{self.path}: tensor `{name}` must hold one number, but its shape is "
                f"{list(values.shape)}."
            )
        return float(values.reshape(()))

    def _map(self, name: str, known: Mapping[str, np.dtype]) -> np.ndarray:
        entry = self._entry(name)
        found = tuple(entry["shape"])
        dtype = known.get(entry["dtype"])
        if dtype is None:
            raise InputError(
                f"{self.path}: tensor `{name}` is stored as {entry['dtype']}; known are "
                f"{', '.join(known)}: convert the file first."
            )
        begin, end = entry["data_offsets"]
        if end - begin != dtype.itemsize * math.prod(found):
            raise InputError(f"{self.path}: tensor `{name}` has the wrong size; fetch it again.")
        if 0 in found:
            raise InputError(f"{self.path}: tensor `{name}` is empty, with shape {list(found)}.")
        return np.memmap(self.path, dtype, mode="r", offset=self._start + begin, shape=found)

    def _entry(self, name: str) -> Mapping:
        if name not in self._entries:
            raise InputError(
                f"{self.path}: tensor `{name}` is missing; the file holds "
                f"{some_names(list(self._entries))}."
            )
        return self._entries[name]


def require_finite(values: np.ndarray, what: str) -> None:
    """Raise `InputError` where an array holds NaN or infinity."""
    values = np.atleast_1d(values)
    rows = max(1, _FINITE_BLOCK * len(values) // max(1, values.size))
    for begin in range(0, len(values), rows):
        block = values[begin : begin + rows]
        if block.size and not _is_finite(block):
            raise InputError(f"{what} holds NaN or infinite values; fetch or train the file again.")


def require_no_pointer(path: Path) -> None:
    """Raise `InputError` where a file is what git leaves in place of a large one."""
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise InputError(
                f"{path}: a Git LFS pointer, not the file itself; fetch it with `git lfs pull`."
            )


def _is_finite(values: np.ndarray) -> bool:
    """Return whether all values are finite, in the way that reads them fastest."""
    if values.dtype.itemsize == 2:
        # numpy compares 16-bit floats one by one. Without its sign, no finite one has as many bits
        # as infinity; NaN has more.
        infinity = np.array(np.inf, values.dtype).view(np.uint16) << 1
        return bool((values.view(np.uint16) << 1).max() < infinity)
    # NaN is both the least and the largest; a signalling one is no reason for a warning.
    with np.errstate(invalid="ignore"):
        return bool(np.isfinite(values.min()) and np.isfinite(values.max()))


def some_names(names: list[str], most: int = 5) -> str:
    """Return some of the names of a file's tensors, as an error shows them."""
    shown = ", ".join(f"`{name}`" for name in sorted(names)[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
            text = file.read(length) if 8 + length <= size else b""
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    require_no_pointer(path)
    try:
        entries = json.loads(text.decode("utf-8"))
        entries.pop("__metadata__", None)
        broken = [name for name, entry in entries.items() if not _is_entry(entry)]
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path}: not a safetensors file, or truncated; fetch or write it again."
        ) from error
    if broken:
        raise InputError(
            f"{path}: the header's entry of tensor `{broken[0]}` is damaged; fetch it again."
        )
    needed = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    if 8 + length + needed > size:
        raise InputError(
            f"{path}: truncated: {8 + length + needed} bytes are announced, {size} are there; "
            "fetch it again."
        )
    return entries, 8 + length


def _is_entry(entry: Any) -> bool:
    """Tell whether a header's entry has a dtype, a shape and the bytes it spans."""
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        return False
    shape, span = entry.get("shape"), entry.get("data_offsets")
    if not (_are_sizes(shape) and _are_sizes(span)):
        return False
    return len(shape) <= _MOST_AXES and len(span) == 2 and span[0] <= span[1]


def _are_sizes(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(v) is int and v >= 0 for v in values)
