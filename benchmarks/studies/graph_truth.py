"""Graphs of as many features, chosen by influence or by KL: which says more of the model?

python -m benchmarks.studies.graph_truth --json benchmarks/results/graph_truth.json

Of each held-out pair of the demo's tasks, K features: the most influential of the whole graph,
those of `auto` with others at their activation on the corrupted prompt, and those of `auto` with
others at zero. Of each set: the scores of its graph, KL of keeping it alone, and how well the graph
predicts what removing each of its features does to the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

import pie_jax
from benchmarks.parts.machine import describe, write_json
from pie_jax.graph import Pruned, scores
from pie_jax.graph.attribute import Place, attribute
from pie_jax.graph.prune import node_influence
from pie_jax.graph.run.validate import validate
from pie_jax.graph.types import Graph
from pie_jax.intervals import bootstrap_mean
from pie_jax.models.loader import LanguageModel
from pie_jax.prune.batch.pairs import batches
from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.engine.selection import PADDING
from pie_jax.prune.methods import METHODS, run_method
from pie_jax.prune.options import PruneOptions
from pie_jax.prune.step import Pruner
from pie_jax.tasks import EncodedPair, encode_pairs, get_task
from pie_jax.terminal import use_compile_cache
from pie_jax.transcoders.store import Transcoder

_BUDGETS = (10, 20, 40)
_REMOVALS = ("corrupted-prompt", "zero-features")
INFLUENCE = "influence"
AUTO = {removal: f"auto, {removal}" for removal in _REMOVALS}
# Columns of the table; those with attention frozen are in the JSON alone.
SHOWN = (
    *("nodes", "replacement", "completeness", *(f"kl {one}" for one in _REMOVALS)),
    *("pearson nothing", "spearman nothing"),
)
MEASURES = (*SHOWN, "pearson attention", "spearman attention")


def main(
    count: Annotated[int, typer.Option("-n", help="Pairs per task.")] = 8,
    seed: int = 0,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Compare the sets on both tasks; print tables, write JSON."""
    use_compile_cache()
    model, clt = pie_jax.load_model(), pie_jax.load_transcoder()
    figures: dict[str, Any] = {"machine": describe(), "pairs": count, "seed": seed, "tasks": {}}
    for task in ("ioi", "docstring"):
        generated = get_task(task).generate(
            count, seed=seed, tokenizer=model.tokenizer, split="heldout"
        )
        pairs, _ = encode_pairs(generated, model.tokenizer, needs_target=True)
        rows = list(measure(model, clt, pairs))
        figures["tasks"][task] = {"rows": rows, "means": means(rows)}
        show(task, figures["tasks"][task]["means"])
    if json_file is not None:
        write_json(json_file, figures)


def measure(
    model: LanguageModel, clt: Transcoder, pairs: Sequence[EncodedPair]
) -> Iterator[dict[str, Any]]:
    """Yield a row for each pair, budget and set."""
    kept = {removal: list(_circuits(model, clt, pairs, removal)) for removal in _REMOVALS}
    sets: list[dict[tuple[int, str], list[Place]]] = []
    for row, pair in enumerate(pairs):
        whole = _graph(model, clt, pair)
        order = np.argsort(-node_influence(whole)[: whole.feature_count], kind="stable")
        own = {(k, INFLUENCE): _places(whole, order[:k]) for k in _BUDGETS}
        for removal, found in kept.items():
            own |= {(k, AUTO[removal]): found[row][k] for k in _BUDGETS}
        sets.append(own)
    kls = {removal: list(_kls(model, clt, pairs, removal, sets)) for removal in _REMOVALS}
    for row, pair in enumerate(pairs):
        for (size, name), places in sets[row].items():
            yield {
                "pair": row,
                "size": size,
                "set": name,
                **_graph_of(model, clt, pair, places),
                **{f"kl {removal}": kls[removal][row][size, name] for removal in _REMOVALS},
            }


def means(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the mean of each measure over pairs by size and set; undefined ones are left out."""
    groups: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["size"], row["set"]), []).append(row)
    return [
        {"size": size, "set": name, **{what: _mean(group, what) for what in MEASURES}}
        for (size, name), group in groups.items()
    ]


def _mean(group: Sequence[dict[str, Any]], what: str) -> dict[str, float | int] | None:
    values = np.array([row[what] for row in group if row[what] is not None], np.float64)
    found = bootstrap_mean(values)
    if found is None:
        return None
    return {"mean": found.mean, "low": found.low, "high": found.high, "n": found.n}


def _evaluators(
    model: LanguageModel, clt: Transcoder, pairs: Sequence[EncodedPair], removal: str
) -> Iterator[tuple[list[int], BatchEvaluator]]:
    size = len(pairs)
    options = PruneOptions(budgets=_BUDGETS, batch_size=size, corruption=removal)
    pruner = Pruner(model, clt, options)
    place = {pair.index: row for row, pair in enumerate(pairs)}
    for batch in batches(pairs, size):
        inputs = pruner.prepare(batch)
        yield [place[int(index)] for index in inputs.rows], inputs


def _circuits(
    model: LanguageModel, clt: Transcoder, pairs: Sequence[EncodedPair], removal: str
) -> Iterator[dict[int, list[Place]]]:
    """Yield the circuits of each pair by budget, in the pairs' order."""
    out: dict[int, dict[int, list[Place]]] = {}
    for rows, inputs in _evaluators(model, clt, pairs, removal):
        selections = run_method(METHODS["auto"], inputs, _BUDGETS)
        for b, row in enumerate(rows):
            known = _occurrences(inputs, b)
            out[row] = {
                size: [known[i] for i in one.kept[b].tolist() if i != PADDING]
                for size, one in zip(_BUDGETS, selections, strict=True)
            }
    yield from (out[row] for row in range(len(pairs)))


def _kls(
    model: LanguageModel,
    clt: Transcoder,
    pairs: Sequence[EncodedPair],
    removal: str,
    sets: Sequence[dict[tuple[int, str], list[Place]]],
) -> Iterator[dict[tuple[int, str], float]]:
    """Yield KL(clean || circuit) of each pair's sets where all else is removed in one way.

    What is not active in the runs of that way writes nothing in them, kept or not.
    """
    out: dict[int, dict[tuple[int, str], float]] = {}
    for rows, inputs in _evaluators(model, clt, pairs, removal):
        kept = np.full((len(inputs.rows), len(sets[0]), max(_BUDGETS)), PADDING, np.int32)
        for b, row in enumerate(rows):
            index = {place: i for i, place in enumerate(_occurrences(inputs, b))}
            for s, places in enumerate(sets[row].values()):
                found = [index[place] for place in places if place in index]
                kept[b, s, : len(found)] = found
        kl = inputs.kl_last(kept)
        for b, row in enumerate(rows):
            out[row] = dict(zip(sets[row], kl[b].tolist(), strict=True))
    yield from (out[row] for row in range(len(pairs)))


def _occurrences(inputs: BatchEvaluator, b: int) -> list[Place]:
    found, end = inputs.occurrences, int(inputs.occurrences.count[b])
    columns = (one[b, :end].tolist() for one in (found.layer, found.position, found.feature))
    return list(zip(*columns, strict=True))


def _graph(model: LanguageModel, clt: Transcoder, pair: EncodedPair, **options: Any) -> Graph:
    assert pair.target_id is not None
    assert pair.distractor_id is not None
    ends = (pair.target_id, pair.distractor_id)
    return attribute(model, clt, pair.clean, targets=ends, **options)


def _places(graph: Graph, some: np.ndarray) -> list[Place]:
    columns = (one[some].tolist() for one in (graph.layer, graph.position, graph.feature))
    return list(zip(*columns, strict=True))


def _graph_of(
    model: LanguageModel, clt: Transcoder, pair: EncodedPair, places: list[Place]
) -> dict[str, Any]:
    """Return the scores of the graph of some features, and how well it predicts removals."""
    whole = _graph(model, clt, pair)
    active = set(_places(whole, np.arange(whole.feature_count)))
    graph = _graph(model, clt, pair, features=[place for place in places if place in active])
    replacement, completeness = scores(graph)
    every = np.ones(graph.node_count)
    # Nothing is pruned: a set is what it is.
    everything = Pruned(every.astype(bool), np.ones(graph.rows.shape, bool), every)
    found = validate(model, clt, graph, everything, graph.feature_count).correlations()
    return {
        "nodes": graph.feature_count,
        "replacement": replacement,
        "completeness": completeness,
        **{f"pearson {name}": one.pearson for name, one in found.items()},
        **{f"spearman {name}": one.spearman for name, one in found.items()},
    }


def show(task: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print the means of a task."""
    table = Table("K", "set", *SHOWN, title=task)
    for row in rows:
        cells = ["–" if row[what] is None else f"{row[what]['mean']:.3f}" for what in SHOWN]
        table.add_row(str(row["size"]), row["set"], *cells)
    Console(width=140).print(table)


if __name__ == "__main__":
    typer.run(main)
