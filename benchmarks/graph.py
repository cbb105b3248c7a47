"""Attribution graphs: seconds of a prompt beside circuit-tracer's, and memory by prompt length.

    python -m benchmarks.graph --peers --json benchmarks/results/graph.json
    python -m benchmarks.graph --shape gemma-2-2b --dtype bfloat16 --no-demo

`--peers` needs the extra `bench`. Seconds of a prompt are a whole graph, from text to rows on the
host: the median over prompts after the first, which compiles.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.parts.machine import PeakAnonymous, describe, device_peak_mib, write_json
from benchmarks.parts.random_weights import SHAPES, make_pairs, make_weights
from pie_jax.errors import InputError, PieError

_MIB = 2**20


def main(
    shape: Annotated[str, typer.Option(help="Of the made weights.")] = "small",
    weights: Annotated[Path | None, typer.Option(help="A folder that made.py wrote.")] = None,
    dtype: str = "float32",
    features: Annotated[int, typer.Option(help="Feature nodes.")] = 1000,
    prompts: Annotated[int, typer.Option(help="After the first.")] = 5,
    peers: Annotated[bool, typer.Option("--peers", help="circuit-tracer too.")] = False,
    demo: Annotated[bool, typer.Option(help="Graphs of the demo.")] = True,
    lengths: Annotated[str, typer.Option(help="Tokens of prompts.")] = "32,128,512,2048",
    length_shape: Annotated[str, typer.Option(help="Weights for the lengths.")] = "tiny",
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
    child: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure, print tables, and write them as JSON."""
    if child is not None:
        assert weights is not None
        print(json.dumps(_length(weights, length_shape, dtype, features, child)))
        return
    if peers and find_spec("circuit_tracer") is None:
        raise InputError("--peers needs circuit_tracer; pip install 'pie-jax[bench]'.")
    if peers and dtype != "float32":
        raise InputError(f"--peers compares in float32, not {dtype}; add --dtype float32.")
    figures: dict[str, Any] = {
        "machine": {**describe(), "usable_cores": len(os.sched_getaffinity(0))},
        "shape": shape,
        "dtype": dtype,
        "features": features,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = weights or Path(name) / "one"
        if weights is None:
            make_weights(SHAPES[shape], folder)
        figures["prompt"] = _prompt(folder, shape, dtype, features, prompts, peers)
        if demo:
            figures["demo"] = _demo(features)
        counts = [int(part) for part in lengths.split(",") if part]
        if counts:
            other = folder if length_shape == shape else Path(name) / "lengths"
            if other != folder:
                make_weights(SHAPES[length_shape], other)
            figures["length_shape"] = length_shape
            figures["lengths"] = [
                _child(other, length_shape, dtype, features, count) for count in counts
            ]
    for table in _tables(figures):
        Console().print(table)
    if json_file is not None:
        write_json(json_file, figures)


def _prompt(
    folder: Path, shape: str, dtype: str, features: int, prompts: int, peers: bool
) -> dict[str, Any]:
    """Return seconds of prompts of one length, ours and circuit-tracer's in turn."""
    import pie_jax

    model = pie_jax.load_model(folder / "model", dtype)
    transcoder = pie_jax.load_transcoder(folder / "transcoder")
    first, *rest = (pair.clean for pair in make_pairs(SHAPES[shape], prompts + 1))

    def ours(prompt: str) -> Any:
        return pie_jax.attribution_graph(model, transcoder, prompt, features=features)

    result: dict[str, Any] = {"tokens": len(model.tokenizer.encode(first))}
    result["first"], _ = _seconds(ours, first)
    tracer: Any = None
    if peers:
        import torch

        from benchmarks.peers.circuit_tracer import CircuitTracer

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        tracer = CircuitTracer(folder)
        tracer.graph(model.tokenizer.encode(first), features)

    def other(prompt: str, graph: Any) -> Any:
        targets = _directions(model, graph)
        return tracer.graph(model.tokenizer.encode(prompt), features, attribution_targets=targets)

    mine, theirs, pruning, gap = [], [], [], 0.0
    for prompt in rest:
        seconds, graph = _seconds(ours, prompt)
        mine.append(seconds)
        pruning.append(_seconds(_prune, graph)[0])
        if tracer is not None:
            seconds, found = _seconds(other, prompt, graph)
            theirs.append(seconds)
            gap = max(gap, _gap(graph, found))
    result |= {"ours": _spread(mine), "pruning": _spread(pruning)}
    result["nodes"] = graph.node_count
    if theirs:
        result |= {"circuit_tracer": _spread(theirs), "largest_gap": gap}
        result["ratio"] = median(theirs) / median(mine)
    return result


def _directions(model: Any, graph: Any) -> list[tuple[str, float, Any]]:
    """Return a graph's targets as circuit-tracer takes directions. Of token ids it makes directions
    from the wrong side of the unembedding where vocabulary and width are of one size, as here."""
    import torch

    from pie_jax.graph.frozen import logit_vectors

    ids = np.array([target.token for target in graph.targets], np.int32)
    vectors = np.asarray(logit_vectors(model.transformer, ids))
    return [
        (target.label, target.probability, torch.tensor(vector))
        for target, vector in zip(graph.targets, vectors, strict=True)
    ]


def _gap(graph: Any, other: Any) -> float:
    """Return the largest difference of rows and columns that both have; raises `PieError` where
    more than one feature in a hundred is another, as rounding alone never makes it."""
    places = np.stack([graph.layer, graph.position, graph.feature], axis=1)
    theirs = other.active_features[other.selected_features].numpy()
    index = {tuple(place): number for number, place in enumerate(theirs.tolist())}
    both = [
        (i, index[place]) for i, place in enumerate(map(tuple, places.tolist())) if place in index
    ]
    if len(both) < 0.99 * len(places):
        raise PieError(
            f"circuit-tracer has {len(both)} of {len(places)} features: it computes something else."
        )
    ours, found = np.array(both).T
    rest = np.arange(graph.feature_count, graph.node_count)
    targets = len(graph.targets)
    rows = np.concatenate([ours, np.arange(graph.feature_count, len(graph.rows))])
    columns, others = np.concatenate([ours, rest]), np.concatenate([found, rest])
    matrix = other.adjacency_matrix.numpy()[np.concatenate([found, rest[-targets:]])]
    return float(np.abs(graph.rows[np.ix_(rows, columns)] - matrix[:, others]).max())


def _demo(features: int, prompts: int = 64, rounds: int = 3) -> dict[str, Any]:
    """Return prompts/s of the demo's task, one prompt after another and in a batch, in turn."""
    import pie_jax
    from pie_jax.tasks import get_task

    model, transcoder = pie_jax.load_model(), pie_jax.load_transcoder()
    first, *pairs = get_task("ioi").generate(prompts + 1, seed=0, tokenizer=model.tokenizer)

    def one(pair: Any) -> Any:
        targets = (pair.target, pair.distractor)
        return pie_jax.attribution_graph(
            model, transcoder, pair.clean, targets=targets, features=features
        )

    def batch(some: Sequence[Any]) -> Any:
        targets = [(pair.target, pair.distractor) for pair in some]
        texts = [pair.clean for pair in some]
        return pie_jax.attribution_graphs(
            model, transcoder, texts, targets=targets, features=features
        )

    alone, graph = _seconds(one, first)
    together, _ = _seconds(batch, pairs[:8])
    each, whole, gap = [], [], 0.0
    for _ in range(rounds):
        found = [_seconds(one, pair) for pair in pairs]
        each.append([seconds for seconds, _ in found])
        seconds, graphs = _seconds(batch, pairs)
        whole.append(seconds)
        gap = max(
            gap,
            *(float(np.abs(a.rows - b.rows).max())
              for (_, a), b in zip(found, graphs, strict=True)),
        )  # fmt: skip
    serial = median(map(sum, each))
    return {
        "prompts": prompts,
        "nodes": graph.node_count,
        "first": alone,
        "first_batch": together,
        "each": _spread([seconds for one in each for seconds in one]),
        "all": serial,
        "prompts_per_second": prompts / serial,
        "batch": _spread(whole),
        "batch_prompts_per_second": prompts / median(whole),
        "batch_ratio": serial / median(whole),
        "largest_gap": gap,
    }


def _child(folder: Path, shape: str, dtype: str, features: int, tokens: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.graph", "--child", str(tokens)]
    command += ["--weights", str(folder), "--length-shape", shape, "--dtype", dtype]
    command += ["--features", str(features)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _length(folder: Path, shape: str, dtype: str, features: int, tokens: int) -> dict[str, Any]:
    """Return seconds and memory of a prompt of so many tokens, in a process of its own."""
    import pie_jax

    model = pie_jax.load_model(folder / "model", dtype)
    transcoder = pie_jax.load_transcoder(folder / "transcoder")
    draws = np.random.default_rng(0).integers(2, SHAPES[shape].vocabulary, (2, tokens - 1))
    ids = [[1, *row] for row in draws.tolist()]

    def one(prompt: Sequence[int]) -> Any:
        return pie_jax.attribution_graph(model, transcoder, prompt, features=features)

    with PeakAnonymous() as loaded:
        time.sleep(0.05)
    with PeakAnonymous() as peak:
        first, _ = _seconds(one, ids[0])
        again, graph = _seconds(one, ids[1])
        pruning, _ = _seconds(_prune, graph)
    return {
        "tokens": tokens,
        "features": graph.feature_count,
        "nodes": graph.node_count,
        "first": first,
        "again": again,
        "pruning": pruning,
        "rows_mib": graph.rows.nbytes / _MIB,
        "dense_mib": 4 * graph.node_count**2 / _MIB,
        "host_peak_mib": (peak.bytes - loaded.bytes) / _MIB,
        "device_peak_mib": device_peak_mib(),
    }


def _prune(graph: Any) -> None:
    from pie_jax.graph.prune import prune_graph, scores

    prune_graph(graph)
    scores(graph)


def _seconds(run: Callable[..., Any], *given: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = run(*given)
    return time.perf_counter() - start, result


def _spread(seconds: Sequence[float]) -> dict[str, Any]:
    return {
        "median": median(seconds),
        "low": min(seconds),
        "high": max(seconds),
        "prompts": len(seconds),
    }


def _tables(figures: dict[str, Any]) -> list[Table]:
    """Return what was measured, one table a part."""
    prompt = figures["prompt"]
    title = f"{figures['shape']}, {prompt['tokens']} tokens, {prompt['nodes']:,} nodes"
    one = Table("seconds", "median", "low", "high", title=title, title_justify="left")
    one.add_row("first, with compiling", f"{prompt['first']:.2f}", "", "")
    demo = figures.get("demo")
    rows = {
        "pie_jax": prompt["ours"],
        "pruning and scores": prompt["pruning"],
        "circuit-tracer": prompt.get("circuit_tracer"),
        "a prompt of the demo": demo and demo["each"],
    }
    for label, row in rows.items():
        if row:
            one.add_row(label, *(f"{row[key]:.3f}" for key in ("median", "low", "high")))
    if demo:
        one.add_row("the demo, prompts/s", f"{demo['prompts_per_second']:.1f}", "", "")
        in_batch = f"{demo['batch_prompts_per_second']:.1f}"
        one.add_row(f"in a batch of {demo['prompts']}, prompts/s", in_batch, "", "")
        one.add_row("batch / one after another", f"{demo['batch_ratio']:.2f}", "", "")
    if "ratio" in prompt:
        one.add_row("circuit-tracer / pie_jax", f"{prompt['ratio']:.1f}", "", "")
    if "lengths" not in figures:
        return [one]
    columns = ["tokens", "nodes", "first", "again", "pruning", "rows_mib", "dense_mib"]
    columns += ["host_peak_mib", "device_peak_mib"]
    lengths = Table(*columns, title=figures["length_shape"], title_justify="left")
    for row in figures["lengths"]:
        cells = (row[key] for key in columns)
        lengths.add_row(*("" if x is None else f"{x:,.2f}".removesuffix(".00") for x in cells))
    return [one, lengths]


if __name__ == "__main__":
    typer.run(main)
