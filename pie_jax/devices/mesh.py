"""One mesh over all devices of all processes, and how host arrays get onto it and back.

Shapes: B batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from pie_jax.errors import InputError

DATA, MODEL = "data", "model"
_EXAMPLE = "data=4,model=2"


def make_mesh(axes: str | Mapping[str, int]) -> Mesh:
    """Return a mesh of every device from `data=4,model=2` or a mapping; an absent axis is 1.

    Prompts are spread over `data`, weights over `model`. Raises `InputError` if an axis is
    unknown or not a whole number, or if the product is not the number of devices.
    """
    sizes = {DATA: 1, MODEL: 1, **_sizes(axes)}
    devices = jax.device_count()
    if sizes[DATA] * sizes[MODEL] != devices:
        raise InputError(
            f"--mesh: data={sizes[DATA]},model={sizes[MODEL]} takes {sizes[DATA] * sizes[MODEL]} "
            f"devices, but there are {devices}; the product must be their number."
        )
    shape = (sizes[DATA], sizes[MODEL])
    return jax.make_mesh(shape, (DATA, MODEL), axis_types=(AxisType.Auto, AxisType.Auto))


def _sizes(axes: str | Mapping[str, int]) -> dict[str, int]:
    pairs = _split(axes) if isinstance(axes, str) else list(axes.items())
    sizes: dict[str, int] = {}
    for name, value in pairs:
        if name not in (DATA, MODEL):
            raise InputError(f"--mesh: axis `{name}` is not known; use {_EXAMPLE}.")
        if name in sizes:
            raise InputError(f"--mesh: axis `{name}` is given twice; name each one once.")
        sizes[name] = _whole(name, value)
    return sizes


def _split(text: str) -> list[tuple[str, str]]:
    found = [part.partition("=") for part in text.split(",")]
    return [(name.strip(), value.strip()) for name, _, value in found]


def _whole(name: str, value: str | int) -> int:
    is_number = isinstance(value, int) or (value.isascii() and value.isdigit())
    if not is_number or int(value) < 1:
        raise InputError(
            f"--mesh: `{name}` must be a whole number of at least 1, but it is `{value}`; use "
            f"{_EXAMPLE}."
        )
    return int(value)


def adopted_mesh(mesh: Mesh, data: str | None = None, model: str | None = None) -> Mesh:
    """Return a caller's mesh with its axes named as pie_jax names them: prompts are spread over its
    axis `data`, weights over its axis `model`; an axis that is not given is 1.

    The devices may be some of all. Raises `InputError` for an axis that the mesh has not, or an
    axis of it that is neither and longer than 1.
    """
    given = [name for name in (data, model) if name is not None]
    for name in given:
        if name not in mesh.axis_names:
            raise InputError(
                f"mesh: there is no axis `{name}`; it has {', '.join(map(str, mesh.axis_names))}."
            )
    rest = [name for name in mesh.axis_names if name not in given]
    if long := [name for name in rest if mesh.shape[name] > 1]:
        raise InputError(
            f"mesh: axis `{long[0]}` of {mesh.shape[long[0]]} devices is neither data nor model; "
            "name it as one of them, or give a mesh without it."
        )
    order = [mesh.axis_names.index(name) for name in (*rest, *given)]
    sizes = tuple(1 if name is None else mesh.shape[name] for name in (data, model))
    devices = mesh.devices.transpose(order).reshape(sizes)
    return Mesh(devices, (DATA, MODEL), axis_types=(AxisType.Auto, AxisType.Auto))


def mesh_of(array: jax.Array) -> Mesh | None:
    """Return the mesh that an array lies on, None where it is on one device."""
    sharding = array.sharding
    mesh = sharding.mesh if isinstance(sharding, NamedSharding) else None
    return mesh if isinstance(mesh, Mesh) else None


def place(
    mesh: Mesh, shape: tuple[int, ...], spec: P, read: Callable[[tuple[slice, ...]], np.ndarray]
) -> jax.Array:
    """Return an array on the mesh; `read(index)` gives a shard, and is called for this process's
    shards only, once for each that differs."""
    known: dict[tuple, np.ndarray] = {}

    def shard(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None
        key = tuple((part.start, part.stop) for part in index)
        if key not in known:
            known[key] = read(index)
        return known[key]

    return jax.make_array_from_callback(shape, NamedSharding(mesh, spec), shard)


def put(mesh: Mesh | None, values: np.ndarray) -> jax.Array:
    """Move a host array [B, ...] to the device, or over the mesh's data axis.

    Every process holds the whole host array and moves its own part.
    """
    if mesh is None:
        return jnp.asarray(values)
    # A copy: what a device aliases must not change under it.
    return place(mesh, values.shape, P(DATA), lambda index: np.array(values[index]))


def copies(mesh: Mesh | None, values: np.ndarray) -> jax.Array:
    """Move a host array to every device of the mesh whole, or to the default device."""
    if mesh is None:
        return jnp.asarray(values)
    return place(mesh, values.shape, P(), lambda index: values[index])


def fetch(array: jax.Array) -> np.ndarray:
    """Return the whole of an array to every process that holds a part of it."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
