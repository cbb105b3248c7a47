"""Safetensors files written piece by piece, for tensors that do not fit into memory."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from pie_jax.files.tensor_reader import require_finite

_PIECE_BYTES = 1 << 26
_NAMES = {
    np.dtype(np.float32): "F32",
    np.dtype(np.float16): "F16",
    np.dtype(ml_dtypes.bfloat16): "BF16",
}


def write_tensors(
    path: Path, tensors: Mapping[str, np.ndarray], dtype: np.dtype | None = None
) -> str:
    """Write tensors as stored or in `dtype`, and return the SHA-256 of the file.

    Raises `InputError` where a tensor holds NaN.
    """
    kinds = {name: np.dtype(dtype or tensor.dtype) for name, tensor in tensors.items()}
    header, start = {}, 0
    for name, tensor in tensors.items():
        end = start + tensor.size * kinds[name].itemsize
        span, shape = [start, end], list(tensor.shape)
        header[name] = {"dtype": _NAMES[kinds[name]], "shape": shape, "data_offsets": span}
        start = end
    text = json.dumps(header).encode()
    # Readers map tensors where they begin: at a multiple of eight bytes.
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for piece in (struct.pack("<Q", len(text)), text):
            file.write(piece)
            digest.update(piece)
        for name, tensor in tensors.items():
            for part in _pieces(tensor):
                require_finite(part, f"{path}: tensor `{name}`")
                data = np.ascontiguousarray(part, kinds[name]).tobytes()
                file.write(data)
                digest.update(data)
    return digest.hexdigest()


def _pieces(tensor: np.ndarray) -> Iterator[np.ndarray]:
    """Yield a tensor along its first axis, some rows at a time."""
    rows = max(1, _PIECE_BYTES * len(tensor) // max(tensor.nbytes, 1))
    for first in range(0, len(tensor), rows):
        yield tensor[first : first + rows]
