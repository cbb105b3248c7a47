"""Distance of the default's circuits from the best possible ones, on held-out pairs of the demo.

python -m benchmarks.studies.circuit_limits --json benchmarks/results/circuit_limits.json

Two questions. Is there a better circuit of K among a prompt's most promising candidates? All of
them are measured. And how good can one circuit be on corruptions that it was not found on? It is
found on more and more of them.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

import pie_jax
from benchmarks.parts.machine import describe
from pie_jax.models.loader import LanguageModel
from pie_jax.prune.batch.pairs import batches
from pie_jax.prune.engine.corruptions import only
from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.engine.selection import PADDING, Selection
from pie_jax.prune.methods import METHODS, run_method
from pie_jax.prune.options import PruneOptions
from pie_jax.prune.search.climb import climb
from pie_jax.prune.search.shared import Search
from pie_jax.prune.search.space import Space, circuit_kl
from pie_jax.prune.step import Pruner
from pie_jax.tasks import encode_pairs, get_task
from pie_jax.terminal import use_compile_cache
from pie_jax.transcoders.store import Transcoder

# Sizes of circuits, and among how many candidates all of them are measured.
_ENUMERATED = ((3, 80), (5, 24), (10, 18))
_AT_ONCE = 1024
_BUDGETS = (5, 10, 20, 40)
# Corruptions found on; others, the last ones of a prompt, judge.
_FOUND_ON = (4, 8, 16, 28)
_JUDGES = 4


def main(
    count: Annotated[int, typer.Option("-n", help="Prompts per task that are enumerated.")] = 4,
    unseen: Annotated[int, typer.Option(help="IOI prompts with many corruptions.")] = 32,
    seed: int = 0,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Enumerate circuits, and find them on more corruptions; print tables, write JSON."""
    use_compile_cache()
    model, clt = pie_jax.load_model(), pie_jax.load_transcoder()
    figures: dict[str, Any] = {"machine": describe(), "enumerated": {}}
    for task in ("ioi", "docstring"):
        (inputs,) = _inputs(model, clt, task, count, 1, seed, count)
        figures["enumerated"][task] = found = enumerated(inputs)
        _show_enumerated(task, found)
    batched = _inputs(model, clt, "ioi", unseen, max(_FOUND_ON) + _JUDGES, seed, 4)
    figures["corruptions"] = found_on = by_corruptions(batched)
    _show_corruptions(found_on)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def enumerated(inputs: BatchEvaluator) -> list[dict[str, Any]]:
    """Return for every prompt and size the KL of `auto`, the least of all circuits among the best
    candidates by what they are worth on the path, and with nothing kept."""
    search = Search(inputs, tuple(size for size, _ in _ENUMERATED))
    kl = np.asarray(climb(search).kl)
    rows = []
    for prompt in range(len(inputs.rows)):
        space = of_prompt(search.space, prompt)
        measured = jax.jit(jax.vmap(partial(circuit_kl, space)))
        order = np.argsort(-np.asarray(search.worth[prompt]), kind="stable").tolist()
        for s, (size, among) in enumerate(_ENUMERATED):
            least = np.inf
            for members in _circuits(order[:among], size):
                least = min(least, float(np.asarray(measured(members)).min()))
            rows.append(
                {
                    "prompt": prompt,
                    "size": size,
                    "among": among,
                    "auto": float(kl[prompt, s]),
                    "least": least,
                    "null": float(search.null[prompt]),
                }
            )
    return rows


def by_corruptions(batched: Iterator[BatchEvaluator]) -> dict[str, dict[str, list[float]]]:
    """Return mean KL by budget of `auto` found on M corruptions, on these and on those kept aside;
    of FAP-Synergy on the fewest; and of `auto` found on those kept aside."""
    values: dict[str, dict[str, list[np.ndarray]]] = {}

    def add(name: str, sets: list[Selection], **where: BatchEvaluator) -> None:
        widest = max(_BUDGETS)
        kept = [
            np.pad(one.kept, ((0, 0), (0, widest - one.kept.shape[1])), constant_values=PADDING)
            for one in sets
        ]
        for kind, inputs in where.items():
            into = values.setdefault(name, {}).setdefault(kind, [])
            into.append(inputs.kl_last(np.stack(kept, axis=1)))

    for inputs in batched:
        judge = only(inputs, slice(max(_FOUND_ON), None))
        for m in _FOUND_ON:
            seen = only(inputs, slice(0, m))
            found = run_method(METHODS["auto"], seen, _BUDGETS)
            add(f"auto, found on {m}", found, seen=seen, unseen=judge)
        seen = only(inputs, slice(0, min(_FOUND_ON)))
        synergy = run_method(METHODS["fap-synergy"], seen, _BUDGETS)
        add(f"fap-synergy, found on {min(_FOUND_ON)}", synergy, seen=seen, unseen=judge)
        add("auto, found on the judges", run_method(METHODS["auto"], judge, _BUDGETS), seen=judge)
    return {
        name: {kind: np.concatenate(each).mean(axis=0).tolist() for kind, each in row.items()}
        for name, row in values.items()
    }


def _inputs(
    model: LanguageModel,
    clt: Transcoder,
    task: str,
    count: int,
    corruptions: int,
    seed: int,
    batch_size: int,
) -> Iterator[BatchEvaluator]:
    pairs = get_task(task).generate(
        count, seed=seed, tokenizer=model.tokenizer, n_corruptions=corruptions, split="heldout"
    )
    pruner = Pruner(model, clt, PruneOptions(budgets=_BUDGETS, batch_size=batch_size))
    encoded, _ = encode_pairs(pairs, model.tokenizer, needs_target=True)
    for batch in batches(encoded, batch_size):
        yield pruner.prepare(batch)


def of_prompt(space: Space, prompt: int) -> Space:
    """Return one prompt's space, of a batch's."""
    rest = jax.tree.map(lambda each: each[prompt], tuple(space[1:]))
    return Space(space.model, *rest)


def _circuits(candidates: list[int], size: int) -> Iterator[jax.Array]:
    """Yield all circuits of a size, `_AT_ONCE` [S, K] at a time; the last ones are repeated."""
    every = itertools.combinations(candidates, size)
    while block := list(itertools.islice(every, _AT_ONCE)):
        block += [block[-1]] * (_AT_ONCE - len(block))
        yield jnp.asarray(np.array(block, np.int32))


def _show_enumerated(task: str, rows: list[dict[str, Any]]) -> None:
    table = Table("prompt", "K", "among", "nothing kept", "auto", "least of all", title=task)
    for row in rows:
        kls = (f"{row[name]:.4f}" for name in ("null", "auto", "least"))
        table.add_row(str(row["prompt"]), str(row["size"]), str(row["among"]), *kls)
    Console().print(table)


def _show_corruptions(found: dict[str, dict[str, list[float]]]) -> None:
    table = Table("KL, seen / unseen", *(f"K = {k}" for k in _BUDGETS), title="ioi, corruptions")
    for name, row in found.items():
        cells = zip(*row.values(), strict=True)
        table.add_row(name, *(" / ".join(f"{kl:.3f}" for kl in cell) for cell in cells))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
