"""Seconds of a first prompt on the demo under sets of XLA flags, each in a fresh process.

python -m benchmarks.studies.compile_flags --json results/flags.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.parts.machine import write_json

# What XLA_FLAGS sets, the package's own options leave alone; it sets the second by itself.
FLAGS = {
    "as it comes": "--xla_gpu_enable_triton_gemm=true",
    "no Triton products": "--xla_gpu_enable_triton_gemm=false",
    "no autotuning": "--xla_gpu_autotune_level=0",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every set of flags; print a row each and write JSON after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", default="fap")
    parser.add_argument("--seconds", type=float, default=60, help="limit of each set")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(_measure(options.method)))
        return
    results: dict[str, Any] = {}
    method = ["--method", options.method]
    for name, flags in FLAGS.items():
        try:
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.studies.compile_flags", "--one", *method],
                env={**os.environ, "XLA_FLAGS": flags},
                stdout=subprocess.PIPE,
                text=True,
                timeout=options.seconds,
                check=True,
            )
            results[name] = json.loads(done.stdout)
        except subprocess.TimeoutExpired:
            results[name] = {"stopped_after": options.seconds}
        print(name, results[name], flush=True)
        if options.json:
            write_json(options.json, results)


def _measure(method: str) -> dict[str, Any]:
    import jax

    import pie_jax
    from benchmarks.latency import BUDGETS, counting, pairs_of_lengths

    model, clt = pie_jax.load_model(), pie_jax.load_transcoder()
    pairs = [pair for _, pair in pairs_of_lengths(model, [16, 17, 18])]
    seconds = []
    with counting() as found:
        for pair in pairs:
            begin = time.perf_counter()
            pie_jax.prune(model, clt, [pair], methods=(method,), budgets=BUDGETS)
            seconds.append(time.perf_counter() - begin)
    slowest = sorted(found, key=lambda one: -one[2])[:8]
    return {
        "device": jax.devices()[0].device_kind,
        "first": seconds[0],
        "next": seconds[-1],
        "slowest": [(kind.split("/")[-1], name, round(took, 2)) for kind, name, took in slowest],
    }


if __name__ == "__main__":
    main()
