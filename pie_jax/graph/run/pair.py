"""`graph_run`: the attribution graph of a circuit that a run of `prune` kept in one pair."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pie_jax.errors import InputError
from pie_jax.features.baselines import KEPT
from pie_jax.features.examples.table import EXAMPLES, load_examples
from pie_jax.features.kept import method_and_budget
from pie_jax.features.records import FeatureKey
from pie_jax.features.weights import load_weights
from pie_jax.files.stage_record import load_stages
from pie_jax.graph.attribute import Place, attribute
from pie_jax.graph.prune import prune_graph
from pie_jax.graph.run.result import GraphResult, Texts, check_shares, finish, write
from pie_jax.graph.targets import Targets
from pie_jax.graph.types import Graph, Pruned
from pie_jax.interpret.run import EXPLANATIONS, load_explanations
from pie_jax.models.loader import LanguageModel
from pie_jax.models.tokenizer import Tokenizer
from pie_jax.prune.results.resumable_folder import load_result
from pie_jax.prune.results.tables import PruneResult
from pie_jax.report.load_explained import scored_table
from pie_jax.report.stage import GRAPH, run_pairs
from pie_jax.tasks import Pair
from pie_jax.tasks.encode import MAX_TOKENS
from pie_jax.transcoders.store import Transcoder


def graph_run(
    folder: str | Path,
    *,
    pair: int | None = None,
    method: str | None = None,
    budget: int | None = None,
    changes: bool = False,
    nodes: float = 0.8,
    edges: float = 0.98,
    validate: int = 0,
    pairs: str | Path | None = None,
    model: LanguageModel | str | None = None,
    transcoder: Transcoder | str | None = None,
    out: str | Path | None = None,
) -> GraphResult:
    """Return the graph of the circuit that `method` kept at `budget` in a pair of a finished run,
    and write its page and files into `graph` in the run's folder, or into `out`.

    Its features are the circuit's occurrences, all of which stay, and it ends in target minus
    distractor, in the target alone, or without answers in the likeliest tokens. `nodes` and `edges`
    prune the rest. Defaults: the run's first pair and method, the middle one of its budgets.
    With `changes` nodes are what they write in the clean prompt minus the (first) corrupted one, as
    pruning counts them: a feature's edge into target minus distractor is its FAP score, and what is
    active in the corrupted prompt alone is a node too.

    Labels, scores and examples are those that later stages left in the folder.

    Raises `InputError` where the run has no such pair, method or budget, its pairs or weights are
    not found, the pair has no corrupted prompt for `changes`, or nothing of the circuit is active.
    """
    check_shares(nodes, edges, validate)
    folder = Path(folder)
    result = load_result(folder)
    method, budget = method_and_budget(result, method, budget)
    number = _pair(result, pair)
    rows = run_pairs(folder, pairs)
    if number >= len(rows):
        raise InputError(
            f"--pair {number}: only {len(rows)} pairs are given; name the run's own with --pairs."
        )
    language_model, clt = load_weights(result, model, transcoder)
    # The run has checked the pair; it reads as many tokens.
    tokens = language_model.tokenizer.encode(rows[number].clean)[:MAX_TOKENS]
    corrupted = _corrupted(rows[number], language_model.tokenizer, number) if changes else None
    circuit, inactive = _circuit(result, number, method, budget, changes)
    targets = _targets(rows[number], language_model.tokenizer)
    graph = attribute(
        language_model, clt, tokens, corrupted=corrupted, targets=targets, features=circuit
    )
    pruned = _whole_circuit(graph, prune_graph(graph, nodes, edges))
    texts = load_texts(folder, set(zip(graph.layer.tolist(), graph.feature.tolist(), strict=True)))
    found = finish(language_model, clt, graph, pruned, validate, texts)
    page = write(
        found, language_model, clt, (folder / GRAPH).parent if out is None else Path(out),
        title=f"{'Changes in the circuit' if changes else 'Circuit'} of pair {number}: {method}, "
        f"K = {budget}", slug=f"pair-{number}",
        shares=(nodes, edges),
    )  # fmt: skip
    kl = float(_rows(result.behaviour, number, method, budget)["kl_last"][0].as_py())
    return replace(found, kl=kl, inactive=inactive, page=page)


def _corrupted(pair: Pair, tokenizer: Tokenizer, number: int) -> list[int]:
    if not pair.corrupted:
        raise InputError(
            f"--changes: pair {number} has no corrupted prompt, so that nothing changes; leave "
            "--changes out, or name a pair that has one."
        )
    return tokenizer.encode(pair.corrupted[0])[:MAX_TOKENS]


def _pair(result: PruneResult, pair: int | None) -> int:
    known = np.unique(result.behaviour["prompt"].to_numpy()).tolist()
    if not known:
        raise InputError("graph: the run holds no prompts; prune some first.")
    number = known[0] if pair is None else pair
    if number not in known:
        raise InputError(
            f"--pair {number}: is not among the run's {len(known)} pairs, {known[0]} to "
            f"{known[-1]} without those that were skipped."
        )
    return int(number)


def _circuit(
    result: PruneResult, pair: int, method: str, budget: int, changes: bool
) -> tuple[list[Place], int]:
    """Return the kept occurrences that write something, and how many do not.

    An occurrence that is active in the corrupted prompt alone writes nothing in the clean one, but
    it changes.
    """
    kept = _places(_rows(result.selections, pair, method, budget))
    if changes and kept:
        return kept, 0
    scores = result.scores.filter(pc.equal(result.scores["prompt"], pair))
    active = set(_places(scores.filter(pc.not_equal(scores["activation_clean"], 0.0))))
    circuit = [place for place in kept if place in active]
    if not circuit:
        raise InputError(
            f"--method {method}, --budget {budget}: nothing that is kept in pair {pair} is active "
            "in its clean prompt, so that the graph has no nodes; name a larger budget."
        )
    return circuit, len(kept) - len(circuit)


def _rows(table: pa.Table, pair: int, method: str, budget: int) -> pa.Table:
    where = pc.and_(pc.equal(table["prompt"], pair), pc.equal(table["budget"], budget))
    return table.filter(pc.and_(where, pc.equal(table["method"], method)))


def _places(table: pa.Table) -> list[Place]:
    columns = (table[name].to_pylist() for name in ("layer", "position", "feature"))
    return list(zip(*columns, strict=True))


def _targets(pair: Pair, tokenizer: Tokenizer) -> Targets:
    answers = (pair.target, pair.distractor)
    target, distractor = (None if one is None else tokenizer.answer_id(one) for one in answers)
    if target is None:
        return None
    return [target] if distractor in (None, target) else (target, distractor)


def _whole_circuit(graph: Graph, pruned: Pruned) -> Pruned:
    nodes = pruned.nodes.copy()
    nodes[: graph.feature_count] = True
    return replace(pruned, nodes=nodes)


def load_texts(folder: Path, keys: Iterable[tuple[int, int]]) -> Texts:
    """Return what the last stages of a folder know of some features, nothing without stages."""
    wanted = {FeatureKey(*key) for key in keys}
    record = load_stages(folder).get("interpret")
    labels: dict[tuple[int, int], str] = {}
    scores: dict[tuple[int, int], dict[str, float | None]] = {}
    if record is not None and (folder / EXPLANATIONS).exists():
        told = load_explanations(folder, record["explainer"], record["explainer_model"])
        labels = {one.key: one.text for one in told if one.text is not None and one.key in wanted}
        scores = _scores(scored_table(folder), wanted)
    there = (folder / EXAMPLES).exists()
    examples = {one.key: one for one in load_examples(folder) if one.key in wanted} if there else {}
    return Texts(labels, scores, examples)


def _scores(
    table: pa.Table | None, wanted: set[FeatureKey]
) -> dict[tuple[int, int], dict[str, float | None]]:
    found: dict[tuple[int, int], dict[str, float | None]] = {}
    rows: list[dict[str, Any]] = [] if table is None else table.to_pylist()
    for row in rows:
        key = FeatureKey(row["layer"], row["feature"])
        if row["group"] == KEPT and key in wanted:
            found.setdefault(key, {})[row["scorer"]] = row["value"]
    return found
