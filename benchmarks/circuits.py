"""Mean KL by method and budget on the demo's two tasks: the README's table.

python -m benchmarks.circuits --json benchmarks/results/circuits.json
"""

from __future__ import annotations

import json
from collections.abc import Iterator
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

METHODS = (
    "auto,learned,staged,integrated-gradients,fap-full,fap-hvp,fap,fap-synergy,relp,factp,"
    "activation-magnitude,random"
)
REFERENCE = Path(__file__).parents[1] / "tests" / "golden" / "reference"


def main(
    count: Annotated[int, typer.Option("-n", help="Pairs per task.")] = 64,
    methods: str = METHODS,
    budgets: str = "5,10,20,40,80",
    corruptions: Annotated[
        int, typer.Option(help="Versions of an IOI prompt to find on, and as many to judge on.")
    ] = 4,
    seed: int = 0,
    out: Annotated[Path, typer.Option(help="Results folders; resumes.")] = Path("circuits"),
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Prune held-out pairs of the demo's tasks with every method."""
    use_compile_cache()
    chosen, sizes = names(methods), numbers(budgets, "--budgets")
    tables: dict[str, Any] = {"machine": describe(), "tasks": {}}
    for name, model, clt, pairs, settings in _cases(count, corruptions, seed):
        with progress_bar(name) as progress:
            result = pie_jax.prune(
                model,
                clt,
                pairs,
                methods=chosen,
                budgets=sizes,
                out=out / name.replace(", ", "-").replace(" ", "-"),
                progress=progress,
                **settings,
            )
        Console().print(name, kl_table(result))
        tables["tasks"][name] = _figures(result, len(pairs))
    print(markdown(tables))
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(tables, indent=2) + "\n", encoding="utf-8")


def _cases(
    count: int, corruptions: int, seed: int
) -> Iterator[tuple[str, Any, Any, list[pie_jax.Pair], dict[str, Any]]]:
    """Yield every table's name, model, transcoder, pairs and settings."""
    model, clt = pie_jax.load_model(), pie_jax.load_transcoder()

    def draw(task: str, versions: int) -> list[pie_jax.Pair]:
        return get_task(task).generate(
            count,
            seed=seed,
            tokenizer=model.tokenizer,
            n_corruptions=versions,
            split="heldout",
        )

    for task in ("ioi", "docstring"):
        yield task, model, clt, draw(task, 1), {}
    if corruptions:
        name = f"ioi, found on {corruptions} corruptions, judged on {corruptions} unseen"
        yield name, model, clt, draw("ioi", 2 * corruptions), {"judge_corruptions": "unseen"}
    for family in ("llama", "gemma2"):
        folder = REFERENCE / family
        parts = pie_jax.load_model(folder / "model"), pie_jax.load_transcoder(folder / "clt")
        yield f"reference {family}", *parts, pie_jax.load_pairs(folder / "prompts.jsonl"), {}


def _figures(result: PruneResult, pairs: int) -> dict[str, Any]:
    null = result.null()
    summary = {
        method: {budget: None if mean is None else mean._asdict() for budget, mean in row.items()}
        for method, row in result.summary().items()
    }
    seconds = result.record["seconds"]
    return {
        "pairs": pairs,
        # Of all budgets together, compiling included.
        "seconds_per_prompt": {m: round(seconds[f"method {m}"] / pairs, 4) for m in summary},
        "stage_seconds": seconds,
        "null": None if null is None else null._asdict(),
        "kl_last": summary,
    }


def markdown(tables: dict[str, Any]) -> str:
    """Return the tables as the README shows them."""
    lines = []
    for task, figures in tables["tasks"].items():
        budgets = list(next(iter(figures["kl_last"].values())))
        lines += [
            f"\n{task}: {figures['pairs']} pairs; nothing kept: {figures['null']['mean']:.2f}\n",
            "| method | " + " | ".join(f"K = {b}" for b in budgets) + " | s a prompt |",
            "|---" * (len(budgets) + 2) + "|",
        ]
        for method, row in figures["kl_last"].items():
            cells = [f"{m['mean']:.3f} [{m['low']:.2f}, {m['high']:.2f}]" for m in row.values()]
            seconds = f"{figures['seconds_per_prompt'][method]:.3f}"
            lines.append(f"| {method} | " + " | ".join([*cells, seconds]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
