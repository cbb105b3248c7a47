"""A circuit's own KL against what is left without it, by the weight of its complement."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.real import chunks

# Sizes that the picture shows.
DRAWN = (25, 50, 100, 200)


def weights(folder: Path, tasks: Sequence[str]) -> dict[str, Any]:
    """Return by task and weight the mean KL and the mean distance of completeness from 0, both by
    size, and the number of pairs."""
    found: dict[str, Any] = {}
    for task in tasks:
        for group in chunks.WEIGHTS:
            one = chunks.joined(folder / "prune", task, group)
            if one is not None:
                weight = group.name.removeprefix("weight ")
                found.setdefault(task, {})[weight] = {
                    "kl": {k: float(v.mean()) for k, v in one["kl"]["auto"].items()},
                    "left": {
                        k: float(np.abs(v).mean()) for k, v in one["completeness"]["auto"].items()
                    },
                    "pairs": len(one["null"]),
                }
    return found


def rows(found: dict[str, Any]) -> Iterator[str]:
    """Yield a Markdown table of a task for each."""
    for task, by_weight in found.items():
        sizes = list(next(iter(by_weight.values()))["kl"])
        yield f"\n**{task}**\n"
        yield "| weight | " + " | ".join(f"K = {size}" for size in sizes) + " | n |"
        yield "|---" * (len(sizes) + 2) + "|"
        for weight, one in by_weight.items():
            cells = [f"{one['kl'][size]:.4f}, {one['left'][size]:.2f}" for size in sizes]
            yield f"| {weight} | " + " | ".join(cells) + f" | {one['pairs']} |"


def draw(found: dict[str, Any], file: Path) -> None:
    """Draw KL against what is left, a line for each size along the weights."""
    from matplotlib import pyplot

    pyplot.rcParams.update({"svg.hashsalt": "pie-jax", "svg.fonttype": "none"})
    figure, axes = pyplot.subplots(1, len(found), figsize=(4.4 * len(found), 3.4), squeeze=False)
    for axis, (task, by_weight) in zip(axes[0], found.items(), strict=True):
        for size in DRAWN:
            kl = [one["kl"][size] for one in by_weight.values()]
            left = [one["left"][size] for one in by_weight.values()]
            axis.plot(left, kl, marker="o", markersize=3, label=f"K = {size}")
            for weight, x, y in zip(by_weight, left, kl, strict=True):
                axis.annotate(weight, (x, y), fontsize=6, xytext=(3, 3), textcoords="offset points")
        axis.set(title=task, xlabel="|completeness|", ylabel="KL, nats", yscale="log")
        axis.legend(fontsize=7, frameon=False)
    figure.tight_layout()
    figure.savefig(file, format="svg", metadata={"Date": None})
