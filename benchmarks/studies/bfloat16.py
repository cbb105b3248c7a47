"""Effects of bfloat16 weights on the demo: scores, kept sets and KL, against float32.

    python -m benchmarks.studies.bfloat16 --json benchmarks/results/bfloat16.json

Products in bfloat16, sums in float32; the transcoder stays as stored.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

import pie_jax
from benchmarks.parts.machine import describe
from pie_jax.prune.results.tables import PruneResult
from pie_jax.tasks import get_task
from pie_jax.terminal import use_compile_cache

METHODS = ("fap", "fap-synergy", "relp")
BUDGETS = (10, 20, 40)
_KEYS = ("prompt", "layer", "position", "feature")


def main(
    count: Annotated[int, typer.Option("-n", help="Pairs per task.")] = 32,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Prune the demo's tasks with weights in both dtypes."""
    use_compile_cache()
    transcoder = pie_jax.load_transcoder()
    figures: dict[str, Any] = {"machine": describe(), "pairs": count, "tasks": {}}
    table = Table("task", "method", "score error", *(f"overlap, K = {k}" for k in BUDGETS), "KL")
    for task in ("ioi", "docstring"):
        results = []
        for dtype in ("float32", "bfloat16"):
            model = pie_jax.load_model("demo", dtype)
            pairs = get_task(task).generate(
                count, seed=0, tokenizer=model.tokenizer, split="heldout"
            )
            results.append(
                pie_jax.prune(model, transcoder, pairs, methods=METHODS, budgets=BUDGETS)
            )
        figures["tasks"][task] = rows = _compare(*results)
        for method, row in rows.items():
            cells = [f"{row['overlap'][k]:.2f}" for k in BUDGETS]
            kl = "{:.3f} / {:.3f}".format(*row["kl_last"])
            table.add_row(task, method, f"{row['score_error']:.4f}", *cells, kl)
    Console().print(table)
    Console().print(
        "score error: root mean square of the difference over that of the scores; overlap: mean "
        f"Jaccard of the kept sets; KL: float32 / bfloat16 at K = {BUDGETS[1]}, each against its "
        "own clean run."
    )
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _compare(one: PruneResult, other: PruneResult) -> dict[str, Any]:
    summaries = [result.summary() for result in (one, other)]
    rows: dict[str, Any] = {}
    for method in METHODS:
        kl = [summary[method][BUDGETS[1]] for summary in summaries]
        rows[method] = {
            # The synergy method reranks FAP's scores.
            "score_error": _score_error(one, other, method.removesuffix("-synergy")),
            "overlap": {k: _overlap(one, other, method, k) for k in BUDGETS},
            "kl_last": [None if mean is None else mean.mean for mean in kl],
        }
    return rows


def _score_error(one: PruneResult, other: PruneResult, method: str) -> float:
    """Compare scores of the occurrences that both have."""
    tables = []
    for result in (one, other):
        keys = zip(*(result.scores[name].to_pylist() for name in _KEYS), strict=True)
        tables.append(dict(zip(keys, result.scores[method].to_pylist(), strict=True)))
    common = sorted(set(tables[0]) & set(tables[1]))
    a, b = (np.array([table[key] for key in common]) for table in tables)
    return float(np.sqrt(np.mean((a - b) ** 2) / np.mean(a**2)))


def _overlap(one: PruneResult, other: PruneResult, method: str, budget: int) -> float:
    kept = [_kept(result, method, budget) for result in (one, other)]
    shares = [len(kept[0][p] & kept[1][p]) / len(kept[0][p] | kept[1][p]) for p in kept[0]]
    return float(np.mean(shares))


def _kept(result: PruneResult, method: str, budget: int) -> dict[int, set[tuple[int, ...]]]:
    table = result.selections.to_pydict()
    kept: dict[int, set[tuple[int, ...]]] = {}
    for i, (name, size) in enumerate(zip(table["method"], table["budget"], strict=True)):
        if (name, size) == (method, budget):
            prompt, *place = (table[key][i] for key in _KEYS)
            kept.setdefault(prompt, set()).add(tuple(place))
    return kept


if __name__ == "__main__":
    typer.run(main)
