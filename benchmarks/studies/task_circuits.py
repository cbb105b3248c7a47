"""Unique features against KL on the demo's two tasks, for a whole task and prompt by prompt.

python -m benchmarks.studies.task_circuits --json benchmarks/results/task_circuits.json
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

import pie_jax
from benchmarks.parts.machine import describe
from pie_jax.cli.options import names, numbers
from pie_jax.cli.tables import task_table
from pie_jax.intervals import Mean
from pie_jax.prune.task_circuits.results import TaskResult
from pie_jax.tasks import get_task
from pie_jax.terminal import progress_bar, use_compile_cache

METHODS = "auto,learned,staged,integrated-gradients,fap,fap-synergy,relp,random"


def main(
    count: Annotated[int, typer.Option("-n", help="Pairs per task: half are found on.")] = 64,
    tasks: str = "ioi,docstring",
    methods: str = METHODS,
    budgets: str = "5,10,20,40,80,160,320",
    corruptions: Annotated[int, typer.Option(help="Corrupted versions of each prompt.")] = 1,
    seed: int = 0,
    out: Annotated[Path, typer.Option(help="Results folders; resumes.")] = Path("task_circuits"),
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Find circuits of the demo's tasks on half of their held-out pairs."""
    use_compile_cache()
    model, clt = pie_jax.load_model(), pie_jax.load_transcoder()
    tables: dict[str, Any] = {"machine": describe(), "tasks": {}}
    for task in names(tasks):
        pairs = get_task(task).generate(
            count,
            seed=seed,
            tokenizer=model.tokenizer,
            n_corruptions=corruptions,
            split="heldout",
        )
        with progress_bar(task) as progress:
            result = pie_jax.prune_task(
                model,
                clt,
                pairs,
                methods=names(methods),
                budgets=numbers(budgets, "--budgets"),
                out=out / f"{task}-{count}-{corruptions}-{seed}",
                progress=progress,
            )
        Console().print(task, task_table(result))
        tables["tasks"][task] = _figures(result, corruptions)
    print(markdown(tables))
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(tables, indent=2) + "\n", encoding="utf-8")


def _figures(result: TaskResult, corruptions: int) -> dict[str, Any]:
    def mean(value: Mean | None) -> dict[str, float] | None:
        return None if value is None else value._asdict()

    null = result.null()
    return {
        "pairs": result.record["pairs"],
        "corruptions": corruptions,
        "null_seen": mean(null[0]),
        "null_unseen": mean(null[1]),
        "stage_seconds": result.record["seconds"],
        "circuits": [
            {
                "method": row.method,
                "budget": row.budget,
                "features": row.features,
                "seen": mean(row.seen),
                "unseen": mean(row.unseen),
                "ratio": row.ratio,
                "union": row.union,
                "prompts": mean(row.prompts),
            }
            for row in result.summary()
        ],
    }


def markdown(tables: dict[str, Any]) -> str:
    """Return for every task KL seen / unseen by method and K, and unique features and KL of
    prompt-level circuits."""
    lines = []
    for task, figures in tables["tasks"].items():
        rows = figures["circuits"]
        budgets = list(dict.fromkeys(row["budget"] for row in rows))
        cells = {(row["method"], row["budget"]): row for row in rows}
        null = [figures[name]["mean"] for name in ("null_seen", "null_unseen")]
        head = "| method | " + " | ".join(f"K = {b}" for b in budgets) + " |"
        rule = "|---" * (len(budgets) + 1) + "|"
        lines += [
            f"\n{task}: {figures['pairs']} pairs, {figures['corruptions']} corruption(s) each; "
            f"nothing kept: {null[0]:.2f} seen, {null[1]:.2f} unseen\n",
            f"K features of the task: KL seen / unseen (ratio)\n\n{head}\n{rule}",
        ]
        methods = list(dict.fromkeys(row["method"] for row in rows))
        for method in methods:
            shown = (_task_cell(cells[method, budget]) for budget in budgets)
            lines.append(f"| {method} | " + " | ".join(shown) + " |")
        lines.append(f"\nK occurrences a prompt: unique features (KL)\n\n{head}\n{rule}")
        for method in methods:
            shown = (
                f"{row['union']} ({_digits(row['prompts']['mean'])})"
                for row in (cells[method, budget] for budget in budgets)
            )
            lines.append(f"| {method} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _task_cell(row: dict[str, Any]) -> str:
    ratio = "–" if row["ratio"] is None else f"{row['ratio']:.2f}"
    return f"{_digits(row['seen']['mean'])} / {_digits(row['unseen']['mean'])} ({ratio})"


def _digits(value: float) -> str:
    return f"{value:.2f}" if value >= 1 else f"{value:.3f}"


if __name__ == "__main__":
    typer.run(main)
