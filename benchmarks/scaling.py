"""Growth of the cost of pruning: with prompts, with occurrences, with features per layer.

    python -m benchmarks.scaling --json benchmarks/results/scaling.json --svg docs/scaling.svg

Shape `small` with four layers and random weights; one thing varies at a time. docs/scaling.md says
what each figure means.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.parts.log_chart import Panel, log_chart, slope
from benchmarks.parts.machine import PeakAnonymous, describe
from benchmarks.parts.prune_measure import Work, run_parts
from benchmarks.parts.random_weights import (
    SHAPES,
    Shape,
    input_scale,
    make_model,
    make_pairs,
    make_transcoder,
)
from pie_jax.prune.options import PruneOptions
from pie_jax.prune.step import Pruner
from pie_jax.terminal import use_compile_cache

SHAPE = replace(SHAPES["small"], layers=4)
BUDGET = 50
PARTS = ("encode", "decoder rows", "gradients", "score", f"synergy, K = {BUDGET}")
_BATCH = 4
_ROUNDS = 3
_FEWEST = 2048

# One sweep: points of what varies and seconds of each part.
Points = list[dict[str, float]]


def main(
    most_features: Annotated[int, typer.Option(help="Largest dictionary, a layer.")] = 131072,
    most_batches: Annotated[int, typer.Option(help="Most batches of 4 prompts.")] = 16,
    most_active: Annotated[int, typer.Option(help="Most active features a layer.")] = 128,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
    svg_file: Annotated[Path | None, typer.Option("--svg", help="A plot.")] = None,
) -> None:
    """Measure, print the exponents, and write JSON and a plot."""
    use_compile_cache()
    with PeakAnonymous() as peak:
        sweeps = {
            "prompts": prompts(SHAPE, _grown(1, most_batches)),
            "occurrences": occurrences(SHAPE, _grown(8, most_active)),
            "features": features(SHAPE, _grown(_FEWEST, most_features, 4)),
            "dictionary": dictionary(SHAPE, _grown(_FEWEST, most_features, 4)),
        }
    figures: dict[str, Any] = {
        "machine": describe(),
        "shape": vars(SHAPE),
        "batch_size": _BATCH,
        "sweeps": sweeps,
        "exponents": exponents(sweeps),
        "peak_mib": peak.bytes / 2**20,
    }
    table = Table("part", *sweeps, title="exponents: 1 in proportion, 0 flat")
    for part in PARTS:
        table.add_row(part, *(f"{one[part]:.2f}" for one in figures["exponents"].values()))
    Console().print(table)
    for path, text in ((json_file, json.dumps(figures, indent=2)), (svg_file, plot(sweeps))):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n", encoding="utf-8")


def prompts(shape: Shape, counts: Sequence[int]) -> Points:
    """Return the seconds that all prompts take together, `counts` batches of them."""
    points: Points = []
    with made(shape, max(counts)) as work:
        pruner, batches = _warm(work)
        for count in counts:
            seconds: dict[str, float] = defaultdict(float)
            for batch in batches[:count]:
                for part, one in run_parts(pruner, batch).seconds.items():
                    seconds[part] += one
            points.append({"prompts": count * _BATCH, **{part: seconds[part] for part in PARTS}})
    return points


def occurrences(shape: Shape, active: Sequence[int]) -> Points:
    """Return seconds a prompt against its mean number of occurrences."""
    points: Points = []
    for count in active:
        with made(replace(shape, l0=count), _ROUNDS) as work:
            points.append(_per_prompt(work))
    return points


def features(shape: Shape, sizes: Sequence[int]) -> Points:
    """Return seconds a prompt against the features of a layer, equally many of them active.

    The larger the dictionary, the fewer of them prompts and positions have in common.
    """
    points: Points = []
    for size in sizes:
        with made(replace(shape, features=size), _ROUNDS) as work:
            points.append({"features": size, **_per_prompt(work)})
    return points


def dictionary(shape: Shape, sizes: Sequence[int]) -> Points:
    """Return seconds a prompt against the features of a layer, the very same ones active."""
    points: Points = []
    for size in sizes:
        with made(replace(shape, features=size, alive=_FEWEST), _ROUNDS) as work:
            points.append({"dictionary": size, **_per_prompt(work)})
    return points


def exponents(sweeps: dict[str, Points]) -> dict[str, dict[str, float]]:
    """Return the power of each part's growth in each sweep."""
    return {
        name: {part: slope([(one[name], one[part]) for one in points]) for part in PARTS}
        for name, points in sweeps.items()
    }


def plot(sweeps: dict[str, Points]) -> str:
    """Return the sweeps as an SVG."""
    labels = {
        "prompts": ("all prompts together", "prompts"),
        "occurrences": ("a prompt", "occurrences a prompt"),
        "features": ("a prompt", "features a layer, as many active"),
        "dictionary": ("a prompt", "features a layer, the same active"),
    }
    panels = [
        Panel(*labels[name], {p: [(one[name], 1e3 * one[p]) for one in points] for p in PARTS})
        for name, points in sweeps.items()
    ]
    return str(log_chart(panels, y_label="milliseconds"))


@contextmanager
def made(shape: Shape, rounds: int) -> Iterator[Work]:
    """Make weights in a temporary folder, and pairs for a warm-up and some batches."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(shape, folder / "model")
        make_transcoder(shape, folder / "transcoder", input_scale(folder / "model", shape))
        pairs = make_pairs(shape, (1 + rounds) * _BATCH)
        yield Work(folder, pairs, ("fap-synergy",), (BUDGET,), _BATCH, shape.dtype, "device")


def _per_prompt(work: Work) -> dict[str, float]:
    pruner, batches = _warm(work)
    rounds = [run_parts(pruner, batch) for batch in batches]
    point = {
        "occurrences": sum(one.occurrences for one in rounds) / len(rounds),
        "rows": sum(one.rows for one in rounds) / len(rounds),
    }
    return point | {part: median(one.seconds[part] for one in rounds) / _BATCH for part in PARTS}


def _warm(work: Work) -> tuple[Pruner, list[Any]]:
    """Compile everything on every batch once: their shapes may differ."""
    options = PruneOptions(methods=work.methods, budgets=work.budgets, batch_size=_BATCH)
    pruner = Pruner(work.model, work.transcoder, options)
    batches = work.batches()[1:]
    for batch in batches:
        run_parts(pruner, batch)
    return pruner, batches


def _grown(first: int, last: int, factor: int = 2) -> list[int]:
    values = [first]
    while factor * values[-1] <= last:
        values.append(factor * values[-1])
    return values


if __name__ == "__main__":
    typer.run(main)
