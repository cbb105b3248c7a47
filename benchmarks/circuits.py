"""Mean KL by method and budget on the demo's two tasks: the README's table.

python -m benchmarks.circuits --json benchmarks/results/circuits.json
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

import pie_jax
from benchmarks.machine import describe
from pie_jax.cli.console import kl_table, progress_bar, use_compile_cache
from pie_jax.cli.options import names, numbers
from pie_jax.prune.results import PruneResult
from pie_jax.tasks import get_task

METHODS = "fap,fap-synergy,relp,factp,acdc,activation-magnitude,random"


def main(
    count: Annotated[int, typer.Option("-n", help="Pairs per task.")] = 64,
    methods: str = METHODS,
    budgets: str = "5,10,20,40,80,160",
    seed: int = 0,
    out: Annotated[Path, typer.Option(help="Results folders; resumes.")] = Path("circuits"),
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Prune held-out pairs of the demo's tasks with every method."""
    use_compile_cache()
    model, clt = pie_jax.load_model(), pie_jax.load_transcoder()
    tables: dict[str, Any] = {"machine": describe(), "pairs": count, "tasks": {}}
    for task in ("ioi", "docstring"):
        pairs = get_task(task).generate(
            count, seed=seed, tokenizer=model.tokenizer, split="heldout"
        )
        start = time.perf_counter()
        with progress_bar(task) as progress:
            result = pie_jax.prune(
                model,
                clt,
                pairs,
                methods=names(methods),
                budgets=numbers(budgets, "--budgets"),
                out=out / task,
                progress=progress,
            )
        Console().print(task, kl_table(result))
        tables["tasks"][task] = _figures(result, time.perf_counter() - start)
    print(markdown(tables))
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(tables, indent=2) + "\n", encoding="utf-8")


def _figures(result: PruneResult, seconds: float) -> dict[str, Any]:
    null = result.null()
    summary = {
        method: {budget: None if mean is None else mean._asdict() for budget, mean in row.items()}
        for method, row in result.summary().items()
    }
    return {
        "seconds": round(seconds, 1),
        "stage_seconds": result.record["seconds"],
        "null": None if null is None else null._asdict(),
        "kl_last": summary,
    }


def markdown(tables: dict[str, Any]) -> str:
    """Return the tables as the README shows them."""
    lines = []
    for task, figures in tables["tasks"].items():
        budgets = list(next(iter(figures["kl_last"].values())))
        lines += [
            f"\n{task}: {tables['pairs']} pairs; nothing kept: {figures['null']['mean']:.2f}\n",
            "| method | " + " | ".join(f"K = {budget}" for budget in budgets) + " |",
            "|---" * (len(budgets) + 1) + "|",
        ]
        for method, row in figures["kl_last"].items():
            cells = [f"{m['mean']:.3f} [{m['low']:.2f}, {m['high']:.2f}]" for m in row.values()]
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
