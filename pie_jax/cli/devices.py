"""The options of devices and processes, to one mesh."""

from __future__ import annotations

import jax
from jax.sharding import Mesh

from pie_jax.devices import processes as distributed
from pie_jax.devices.mesh import DATA, make_mesh


def join_devices(
    mesh: str | None,
    joined: bool,
    coordinator: str | None,
    processes: int | None,
    process: int | None,
) -> Mesh | None:
    """Join the other processes where that is asked for, and return the mesh of all devices.

    Several processes without `--mesh` spread prompts over every device. Without both, None.
    """
    explicit = (coordinator, processes, process)
    if joined or distributed.asked_for() or any(value is not None for value in explicit):
        distributed.start(*explicit)
    if mesh is not None:
        return make_mesh(mesh)
    return make_mesh({DATA: jax.device_count()}) if jax.process_count() > 1 else None
