"""What is left without a circuit of `auto`, by KL and by the metric, on a model of one's own.

python -m benchmarks.studies.complement --model MODEL --transcoder DIR --pairs FILE --json OUT

The metric is a difference of two words' logits. Where both are rare with nothing kept, what is left
can be near to nothing kept as a distribution, and yet far from it by the metric.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import typer
from jaxtyping import Array, Float, Int
from rich.console import Console
from rich.table import Table

import pie_jax
from benchmarks.parts.machine import describe, write_json
from pie_jax.devices.programs import program
from pie_jax.prune.batch.pairs import batches
from pie_jax.prune.engine.selection import PADDING
from pie_jax.prune.options import PruneOptions
from pie_jax.prune.search.climb import climb
from pie_jax.prune.search.shared import Search
from pie_jax.prune.search.space import Space, change_of, loss_at, map_prompts
from pie_jax.prune.step import Pruner
from pie_jax.tasks import encode_pairs
from pie_jax.terminal import use_compile_cache


def main(
    model: Annotated[str, typer.Option(help="Folder, or hub id.")],
    transcoder: Annotated[str, typer.Option(help="Folder, or hub id.")],
    pairs: Annotated[Path, typer.Option(help="JSONL of prompt pairs.")],
    count: Annotated[int, typer.Option("-n", help="Prompts.")] = 8,
    budgets: Annotated[str, typer.Option("--budget", help="Sizes, by comma.")] = "100,200,400",
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure what circuits leave; print a table and write JSON."""
    use_compile_cache()
    sizes = tuple(int(size) for size in budgets.split(","))
    loaded, clt = pie_jax.load_model(model), pie_jax.load_transcoder(transcoder)
    pruner = Pruner(loaded, clt, PruneOptions(budgets=sizes))
    given = pie_jax.load_pairs(pairs)[:count]
    encoded, _ = encode_pairs(given, loaded.tokenizer, needs_target=True)
    kl, target = [], []
    for batch in batches(encoded, pruner.options.batch_size):
        search = Search(pruner.prepare(batch), sizes)
        members = np.pad(np.asarray(climb(search).members), ((0, 0), (1, 0), (0, 0)))
        members[:, 0] = PADDING
        kl.append(np.asarray(complement_kl(search.weighed, jnp.asarray(members)))[: batch.real])
        null = np.exp(np.asarray(search.weighed.complement.null)).mean(axis=1)
        target.append(null[np.arange(batch.real), np.asarray(batch.target)[: batch.real]])
    left = np.concatenate(kl)
    table = Table("nothing removed", *(f"without K = {size}" for size in sizes))
    table.add_row(*(f"{one:.3f}" for one in left.mean(axis=0)))
    Console().print(table)
    rare = np.concatenate(target)
    print(f"probability of the target with nothing kept: {rare.min():.1e} to {rare.max():.1e}")
    if json_file is not None:
        figures = {"kl": left.tolist(), "target": rare.tolist(), "budgets": [0, *sizes]}
        write_json(json_file, {"machine": describe(), **figures})


@program()
def complement_kl(space: Space, members: Int[Array, "B S K"]) -> Float[Array, "B S"]:
    """Return KL(nothing kept || everything but a circuit), in nats."""

    def one(space: Space, members: Array) -> Array:
        def of_circuit(members: Array) -> Array:
            loss, kl = loss_at(space, change_of(space, members))
            return (loss - kl) / space.complement.weight

        return jax.lax.map(of_circuit, members)

    return map_prompts(one, 1, space, members)


if __name__ == "__main__":
    typer.run(main)
