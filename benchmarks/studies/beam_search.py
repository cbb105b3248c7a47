"""Small circuits of `auto` against a beam search by exact KL, on a model of one's own.

python -m benchmarks.studies.beam_search --model MODEL --transcoder DIR --pairs FILE --json OUT

The beam adds one occurrence at a time: the gradient at every circuit kept names the next
candidates, each is tried, and the best circuits of all are kept. With 2 circuits and 48 candidates
that is 2 gradients and 96 runs a prompt for every K, to tell what a better search could gain.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import typer
from jaxtyping import Array, Float, Int
from rich.console import Console
from rich.table import Table

import pie_jax
from benchmarks.parts.machine import describe, write_json
from benchmarks.studies.circuit_limits import of_prompt
from pie_jax.devices.programs import program
from pie_jax.prune.batch.pairs import batches
from pie_jax.prune.engine.selection import PADDING
from pie_jax.prune.options import PruneOptions
from pie_jax.prune.search.circuits import is_member
from pie_jax.prune.search.climb import climb
from pie_jax.prune.search.shared import Search
from pie_jax.prune.search.space import Space, circuit_kl, loss_and_gain
from pie_jax.prune.step import Pruner
from pie_jax.tasks import encode_pairs
from pie_jax.terminal import use_compile_cache

# Circuits that run side by side.
_AT_ONCE = 16


def main(
    model: Annotated[str, typer.Option(help="Folder, or hub id.")],
    transcoder: Annotated[str, typer.Option(help="Folder, or hub id.")],
    pairs: Annotated[Path, typer.Option(help="JSONL of prompt pairs.")],
    count: Annotated[int, typer.Option("-n", help="Prompts.")] = 4,
    width: Annotated[int, typer.Option(help="Circuits kept at every size.")] = 2,
    tried: Annotated[int, typer.Option(help="Candidates tried for each of them.")] = 48,
    budgets: Annotated[str, typer.Option("--budget", help="Sizes, by comma.")] = "1,2,5,10,25",
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Search with a beam, print a table beside `auto`'s KL, and write JSON."""
    use_compile_cache()
    sizes = tuple(int(size) for size in budgets.split(","))
    loaded, clt = pie_jax.load_model(model), pie_jax.load_transcoder(transcoder)
    pruner = Pruner(loaded, clt, PruneOptions(budgets=sizes, batch_size=1))
    encoded, _ = encode_pairs(
        pie_jax.load_pairs(pairs)[:count], loaded.tokenizer, needs_target=True
    )
    table = Table("KL: auto / beam", "nothing kept", *(f"K = {size}" for size in sizes))
    rows: list[dict[str, Any]] = []
    for number, batch in enumerate(batches(encoded, 1)):
        search = Search(pruner.prepare(batch), sizes)
        auto = np.asarray(climb(search).kl)[0]
        found = list(beam(of_prompt(search.space, 0), max(sizes), width, tried))
        row = {
            "prompt": number,
            "null": float(search.null[0]),
            "auto": dict(zip(map(str, sizes), auto.tolist(), strict=True)),
            "beam": {str(size): found[size - 1] for size in sizes},
        }
        rows.append(row)
        cells = (f"{row['auto'][str(k)]:.3f} / {row['beam'][str(k)]:.3f}" for k in sizes)
        table.add_row(str(number), f"{row['null']:.3f}", *cells)
        print(row, flush=True)
    Console().print(table)
    if json_file is not None:
        write_json(
            json_file, {"machine": describe(), "width": width, "tried": tried, "prompts": rows}
        )


def beam(space: Space, most: int, width: int, tried: int) -> Iterator[float]:
    """Yield the least KL found of circuits of 1, 2, ..., `most` members, in nats."""
    members = jnp.full((1, most), PADDING, jnp.int32)
    for size in range(most):
        longer, kl = map(np.asarray, _longer(space, members, jnp.int32(size), tried))
        # The same circuit is reached in several orders.
        _, first = np.unique(np.sort(longer, axis=1), axis=0, return_index=True)
        best = first[np.argsort(kl[first], kind="stable")][:width]
        members = jnp.asarray(longer[best])
        yield float(kl[best[0]])


@program("tried")
def _longer(
    space: Space, members: Int[Array, "W K"], size: Int[Array, ""], tried: int
) -> tuple[Int[Array, "WC K"], Float[Array, " WC"]]:
    """Return circuits of one member more, those of the `tried` largest gains, and their KL."""
    _, _, gain = loss_and_gain(space, members)
    held = jax.vmap(partial(is_member, count=gain.shape[1]))(members)
    lowers, added = jax.lax.top_k(jnp.where(held, -jnp.inf, gain), tried)
    added = jnp.where(lowers > -jnp.inf, added, PADDING)
    longer = jax.vmap(lambda one, new: jax.vmap(lambda n: one.at[size].set(n))(new))(members, added)
    longer = longer.reshape(-1, members.shape[1])
    return longer, jax.lax.map(partial(circuit_kl, space), longer, batch_size=_AT_ONCE)


if __name__ == "__main__":
    typer.run(main)
