"""Peak memory of pruning with a transcoder on disk, beside what it has to hold.

    python -m benchmarks.memory --json benchmarks/results/memory.json

Makes a random model and transcoder, prunes a few pairs in a fresh process, and compares the peak
of its own memory (anonymous pages; the mapped files belong to the page cache) with that of the
same process on a transcoder of 64 features a layer, plus encoders, decoder rows that a batch
needs, and the interventions that run side by side.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.parts.machine import PeakAnonymous, describe
from benchmarks.parts.random_weights import (
    SHAPES,
    Shape,
    input_scale,
    make_model,
    make_pairs,
    make_transcoder,
)

_MIB = 2**20


def main(
    shape: str = "wide",
    prompts: int = 8,
    batch_size: int = 4,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
    child: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure, print a table, and write it as JSON."""
    sizes = SHAPES[shape]
    if child is not None:
        print(json.dumps(_measure(child, sizes, prompts, batch_size)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(sizes, folder / "model")
        scale = input_scale(folder / "model", sizes)
        make_transcoder(replace(sizes, features=64, l0=48), folder / "small", scale)
        make_transcoder(sizes, folder / "large", scale)
        base = _child(folder / "small", shape, prompts, batch_size)
        full = _child(folder / "large", shape, prompts, batch_size)
        files = sum(path.stat().st_size for path in (folder / "large").glob("W_dec_*"))
    figures = {
        "machine": describe(),
        "shape": shape,
        "prompts": prompts,
        "batch_size": batch_size,
        "decoders_mib": files / _MIB,
        "encoders_mib": full["encoders_mib"],
        "needed_rows_mib": full["needed_rows_mib"],
        "base_peak_mib": base["peak_mib"] - base["encoders_mib"] - base["needed_rows_mib"],
        "peak_mib": full["peak_mib"],
    }
    parts = ("base_peak_mib", "encoders_mib", "needed_rows_mib")
    figures["bound_mib"] = sum(figures[part] for part in parts) + full["occurrence_batch_mib"]
    figures["below_bound"] = figures["peak_mib"] <= figures["bound_mib"]
    table = Table("what", "MiB", title=f"peak memory, shape {shape}", title_justify="left")
    for key in ("decoders_mib", *parts, "bound_mib", "peak_mib"):
        table.add_row(key.removesuffix("_mib").replace("_", " "), f"{figures[key]:,.0f}")
    Console().print(table)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _child(transcoder: Path, shape: str, prompts: int, batch_size: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.memory", "--child", str(transcoder)]
    command += ["--shape", shape, "--prompts", str(prompts), "--batch-size", str(batch_size)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _measure(folder: Path, shape: Shape, prompts: int, batch_size: int) -> dict[str, Any]:
    import pie_jax
    from pie_jax.prune.batch.pairs import batches
    from pie_jax.prune.options import PruneOptions
    from pie_jax.prune.step import Pruner
    from pie_jax.tasks import encode_pairs

    model = pie_jax.load_model(folder.parent / "model")
    transcoder = pie_jax.load_transcoder(folder)
    options = PruneOptions(
        methods=("fap", "relp", "fap-synergy"), budgets=(50, 100), batch_size=batch_size
    )
    encoded, _ = encode_pairs(make_pairs(shape, prompts), model.tokenizer, needs_target=True)
    pruner = Pruner(model, transcoder, options)
    rows = occurrences = 0
    with PeakAnonymous() as peak:
        for batch in batches(encoded, batch_size):
            inputs = pruner.prepare(batch)
            rows = max(rows, inputs.problem.table.nbytes)
            occurrences = max(occurrences, inputs.occurrences.layer.size)
            del inputs
            pruner.run(batch)
    encoders = sum(array.nbytes for arrays in transcoder.encoder_arrays for array in arrays[:2])
    return {
        "peak_mib": peak.bytes / _MIB,
        "encoders_mib": encoders / _MIB,
        "needed_rows_mib": rows / _MIB,
        # One prompt's occurrences x D in flight, and [B, T, F] of one layer while encoding.
        "occurrence_batch_mib": (
            occurrences / batch_size * shape.d_model * 4
            + 4 * 4 * batch_size * shape.tokens * transcoder.config.features
        )
        / _MIB,
    }


if __name__ == "__main__":
    typer.run(main)
