"""Placement of weights: the axis of each that is cut over the mesh's `model` axis.

Shapes: L layers, D model, M MLP, H heads, G key/value heads, K head size, V vocabulary,
F features, R table rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from pie_jax.devices.mesh import MODEL, place

# The axes a weight may be cut along: the first that divides evenly. What is not named here, and
# what no axis divides, has a copy on every device.
MODEL_AXES: dict[str, tuple[int, ...]] = {
    "embedding": (0, 1),  # [V, D]
    "unembedding": (0, 1),  # [V, D]
    "blocks.attention.query": (2, 1),  # [L, D, H, K]
    "blocks.attention.key": (2, 1),  # [L, D, G, K]
    "blocks.attention.value": (2, 1),  # [L, D, G, K]
    "blocks.attention.output": (1, 3),  # [L, H, K, D]
    "blocks.mlp.gate": (2, 1),  # [L, D, M]
    "blocks.mlp.up": (2, 1),  # [L, D, M]
    "blocks.mlp.down": (1, 2),  # [L, M, D]
    "encoder.weight": (0, 1),  # [F, D]
    "encoder.bias": (0,),  # [F]
    "encoder.threshold": (0,),  # [F]
    "decoder.table": (1,),  # [R, D]: tiles of rows stay whole
}

# Bytes; XLA copies what lies at other addresses.
_ALIGNMENT = 64

Module = TypeVar("Module", bound=nnx.Module)


def weight_spec(name: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    """Return how a weight of `MODEL_AXES` lies on a mesh."""
    for axis in MODEL_AXES.get(name, ()):
        if shape[axis] % mesh.shape[MODEL] == 0:
            return P(*[None] * axis, MODEL)
    return P()


def place_weight(
    mesh: Mesh | None,
    name: str,
    shape: tuple[int, ...],
    read: Callable[[tuple[slice, ...]], np.ndarray],
) -> jax.Array:
    """Return a weight on the mesh, or on the default device; `read(index)` gives a part of it."""
    if mesh is None:
        return jax.device_put(read((slice(None),) * len(shape)))
    return place(mesh, shape, weight_spec(name, shape, mesh), read)


def host_zeros(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """Return zeros at an address where a CPU device takes them as they are, without a copy; once
    placed they may not be written to."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    room = np.zeros(size + _ALIGNMENT, np.uint8)
    begin = -room.ctypes.data % _ALIGNMENT
    return room[begin : begin + size].view(dtype).reshape(shape)


def move(module: Module, mesh: Mesh, prefix: str = "") -> Module:
    """Return a transformer or (`prefix` "encoder.") an encoder with its weights on the mesh.

    Weights that are there already stay; others pass through host memory.
    """
    graph, state = nnx.split(module)
    leaves = []
    for path, leaf in nnx.to_flat_state(state):
        name = prefix + leaf_name(path)
        leaves.append((path, leaf.replace(_move(name, leaf.get_value(), mesh))))
    return nnx.merge(graph, nnx.from_flat_state(leaves))


def move_encoder(encoder: Module, mesh: Mesh) -> Module:
    """Return an encoder with its weights on the mesh."""
    return move(encoder, mesh, "encoder.")


def leaf_name(path: tuple) -> str:
    """Return the name of a leaf as `MODEL_AXES` and the model families spell it."""
    return ".".join(str(part) for part in path)


def _move(name: str, value: jax.Array, mesh: Mesh) -> jax.Array:
    wanted = NamedSharding(mesh, weight_spec(name, value.shape, mesh))
    if value.sharding == wanted:
        return value
    if not value.is_fully_addressable:
        return jax.device_put(value, wanted)
    host = np.asarray(value)
    return place(mesh, value.shape, wanted.spec, lambda index: host[index])
