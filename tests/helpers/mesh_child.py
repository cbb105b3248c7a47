"""One of two processes of a run; test_distributed.py starts it.

Arguments: process, port, mesh, the model's stand-in folder, results folder, seconds to wait after
each batch, file for this process's results. After the
run the processes disagree once, and process 0 decides for both.
"""

from __future__ import annotations

import pickle
import sys
import time
from pathlib import Path
from typing import Any

import jax
from mesh_helpers import OPTIONS, PAIRS
from prune_helpers import tiny_model, tiny_transcoder

import pie_jax
from pie_jax.devices import processes as distributed
from pie_jax.errors import InputError
from pie_jax.prune.step import Pruner

process, port, mesh, stand_in, out, wait, results = sys.argv[1:]
distributed.start(f"127.0.0.1:{port}", 2, int(process), timeout_seconds=10)
assert (jax.device_count(), jax.local_device_count()) == (8, 4)
computed: list[int] = []
measure = Pruner.measure


def counted(self: Pruner, batch: Any, inputs: Any) -> Any:
    computed.append(int(batch.rows[0]))
    return measure(self, batch, inputs)


Pruner.measure = counted  # type: ignore[method-assign]
model = tiny_model(Path(stand_in))
result = pie_jax.prune(
    model,
    tiny_transcoder(model),
    PAIRS,
    OPTIONS,
    mesh=pie_jax.make_mesh(mesh),
    out=out,
    progress=lambda *_: time.sleep(float(wait)),
)


def refuse() -> None:
    raise InputError(f"process {process} refuses.")


refused = []
for act in (
    lambda: distributed.require_same(f"options of {process}", "the options"),
    lambda: distributed.from_first(refuse),
):
    try:
        act()
    except InputError as error:
        refused.append(str(error))
distributed.require_same("options of both", "the options")
answer = distributed.from_first(lambda: (process, bytes(5000)))
said = (refused, answer)
Path(results).write_bytes(pickle.dumps((result, computed, said)))
