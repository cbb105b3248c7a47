"""One of several processes of a run; started by test_distributed.py, not collected.

Arguments: process, port, mesh, model's stand-in folder, results folder, seconds to wait after
each batch, results of this process as a pickle.
"""

from __future__ import annotations

import pickle
import sys
import time
from pathlib import Path

import jax
from mesh_helpers import OPTIONS, PAIRS
from prune_helpers import tiny_model, tiny_transcoder

import pie_jax
from pie_jax import distributed

process, port, mesh, stand_in, out, wait, results = sys.argv[1:]
distributed.start(f"127.0.0.1:{port}", 2, int(process), timeout_seconds=10)
assert (jax.device_count(), jax.local_device_count()) == (8, 4)
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
Path(results).write_bytes(pickle.dumps(result))
