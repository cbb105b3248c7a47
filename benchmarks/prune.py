"""Seconds per prompt of each part of pruning, beside what the machine and its peers reach.

    python -m benchmarks.prune --shape small --peers --json benchmarks/results/prune.json

Weights of a given shape are made (random, with a given number of active features), or given with
`--weights DIR` (folders `model` and `transcoder`, made there if DIR is new or empty), and with
`--pairs FILE` for another tokenizer than the made one. Every figure is the median over batches
after one that compiled everything; shares are of the plain matmul and copy of the same run. Then
the same batches are pruned in one run, each prepared while the one before is computed. The JSON is
written after every batch. `--peers` needs the extra `bench`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.parts.limits import copy_bytes, matmul_flops
from benchmarks.parts.machine import PeakAnonymous, describe, device_peak_mib, write_json
from benchmarks.parts.prune_weights import given_pairs, require_weights, require_words
from benchmarks.parts.random_weights import SHAPES
from pie_jax.cli.options import names, numbers
from pie_jax.errors import PieError

_MIB = 2**20


def main(
    shape: str = "small",
    prompts: Annotated[int, typer.Option(help="Measured ones, after one batch to warm up.")] = 16,
    batch_size: int = 8,
    budgets: str = "50,100,200,400,800",
    methods: str = "fap,relp,fap-synergy",
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16; default: as stored.")] = "",
    encoders: Annotated[str, typer.Option(help="device or disk.")] = "device",
    weights: Annotated[
        Path | None, typer.Option(help="Folder of `model` and `transcoder`.")
    ] = None,
    pairs: Annotated[Path | None, typer.Option(help="JSONL of prompts; else made ones.")] = None,
    peers: Annotated[bool, typer.Option(help="Also circuit-tracer and a PyTorch loop.")] = False,
    graph: Annotated[bool, typer.Option(help="With --peers: an attribution graph.")] = False,
    plain: Annotated[bool, typer.Option(help="Also this package's own plain path.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure, print tables, and write them as JSON."""
    from benchmarks.parts import prune_measure

    sizes = SHAPES[shape]
    with tempfile.TemporaryDirectory() as temporary:
        folder = weights or Path(temporary)
        work = prune_measure.Work(
            folder,
            given_pairs(pairs, sizes, prompts + batch_size),
            names(methods),
            numbers(budgets, "--budgets"),
            batch_size,
            dtype or sizes.dtype,
            encoders,
        )
        if peers:
            from benchmarks.peers import prune as prune_peers

            prune_peers.require(work)
        require_weights(sizes, folder)
        if pairs is None:
            require_words(folder, work.pairs)
        figures: dict[str, Any] = {
            "machine": describe(),
            "shape": shape,
            "prompts": prompts,
            "batch_size": batch_size,
            "methods": names(methods),
            "budgets": numbers(budgets, "--budgets"),
            "features": work.transcoder.config.features,
            "dtype": dtype or sizes.dtype,
            "matmul_flops": matmul_flops(dtype or sizes.dtype),
            "copy_bytes": copy_bytes(),
        }
        with PeakAnonymous() as peak:

            def report(fast: dict[str, Any]) -> None:
                figures["fast"] = fast
                figures["shares"] = _shares(figures)
                figures["peak_mib"] = peak.bytes / _MIB
                figures["device_peak_mib"] = device_peak_mib()
                if json_file is not None:
                    write_json(json_file, figures)

            report({"status": "nothing is measured yet"})
            report(prune_measure.measure(work, plain=False, report=report))
        if plain:
            figures["plain"] = prune_measure.measure(work, plain=True)
        if peers:
            figures["peers"] = prune_peers.measure(work, graph=graph)
    show(figures)
    if json_file is not None:
        write_json(json_file, figures)


def _shares(figures: dict[str, Any]) -> dict[str, float]:
    """Return what the rates are of the plain matmul and the plain copy."""
    limits = {"flops": figures["matmul_flops"], "bytes": figures["copy_bytes"]}
    rates = figures["fast"].get("rates", {})
    return {name: rate / limits[name.rsplit("_", 1)[1]] for name, rate in rates.items()}


def show(figures: dict[str, Any]) -> None:
    """Print the tables."""
    console = Console()
    fast, peak, copy = figures["fast"], figures["matmul_flops"], figures["copy_bytes"]
    console.print(
        f"{figures['shape']}, {figures['dtype']}: plain matmul {peak / 1e9:,.0f} GFLOP/s, plain "
        f"copy {copy / 1e9:,.1f} GB/s; first batch {fast['first_batch']['seconds']:.1f} s, of it "
        f"compiling {fast['compile_seconds']:.1f} s; peak memory {figures['peak_mib']:,.0f} MiB; "
        f"{fast['prompts_per_second']:.2f} prompts/s in all"
    )
    if (steady := fast["run"]["prompts_per_second"]) is not None:
        console.print(f"one batch ahead, after the first: {steady:.2f} prompts/s")
    columns = ["part", "ms a prompt", "spread"]
    columns += ["plain path", "ratio"] if "plain" in figures else []
    table = Table(*columns, title="this package", title_justify="left")
    for name, one in fast["parts"].items():
        row = [
            name,
            f"{1e3 * one['median']:,.1f}",
            f"{1e3 * one['low']:,.1f} to {1e3 * one['high']:,.1f}",
        ]
        if "plain" in figures:
            other = figures["plain"]["parts"].get(name)
            row += ["", ""] if other is None else [
                f"{1e3 * other['median']:,.1f}", f"{other['median'] / one['median']:.1f}"
            ]  # fmt: skip
        table.add_row(*row)
    console.print(table)
    for name, rate in fast["rates"].items():
        unit = "GFLOP/s" if name.endswith("flops") else "GB/s"
        label = name.rsplit("_", 1)[0].replace("_", " ")
        console.print(
            f"{label}: {rate / 1e9:,.1f} {unit}, {figures['shares'][name]:.0%} of the plain one"
        )
    if "peers" in figures:
        table = Table("peer", "its ms", "ours, ms", "ratio", title="peers", title_justify="left")
        for name, one in figures["peers"].items():
            ours = _ours(fast["parts"], one)
            low, high = (one[key] / ours for key in ("low", "high"))
            table.add_row(
                name, f"{1e3 * one['median']:,.1f}", f"{1e3 * ours:,.1f}",
                f"{one['median'] / ours:,.1f} ({low:,.1f} to {high:,.1f})",
            )  # fmt: skip
            one["ratio"] = one["median"] / ours
        console.print(table)
        for name, one in figures["peers"].items():
            console.print(f"{name}: {one['note']}")


def _ours(parts: dict[str, Any], peer: dict[str, Any]) -> float:
    """Return the sum of some parts, each divided by how many of the peer's units it does."""
    if "ours_seconds" in peer:
        return peer["ours_seconds"]
    return sum(parts[name]["median"] / units for name, units in peer["ours"].items())


if __name__ == "__main__":
    try:
        typer.run(main)
    except PieError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
