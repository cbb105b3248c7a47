"""Circuits of every method side by side: the tables of docs/circuits-results.md.

python -m benchmarks.circuits --json benchmarks/results/circuits.json
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import jax
import typer

from benchmarks.parts.circuit_cases import BASELINE, METHODS, Case, Sizes, cases
from benchmarks.parts.circuit_figures import figures, random_sizes, stabilities
from benchmarks.parts.circuit_tables import markdown
from benchmarks.parts.machine import describe
from benchmarks.parts.timing import compiling
from pie_jax.cli.options import names, numbers
from pie_jax.errors import InputError, PieError
from pie_jax.prune.results.tables import PruneResult
from pie_jax.terminal import progress_bar, use_compile_cache

# By the second run alone everything is compiled, or something is wrong.
_MOST_RUNS = 3


def main(
    count: Annotated[int, typer.Option("-n", help="Pairs per task.")] = 64,
    methods: str = METHODS,
    budgets: str = "5,10,20,40,80",
    corruptions: Annotated[
        int, typer.Option(help="Versions of an IOI prompt to find on, and as many to judge on.")
    ] = 4,
    seed: int = 0,
    only: Annotated[str | None, typer.Option(help="One case, by the name of its folder.")] = None,
    out: Annotated[Path, typer.Option(help="Results folders; resumes.")] = Path("circuits"),
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Prune held-out pairs of the demo's tasks, and the tests' models, with every method."""
    use_compile_cache()
    sizes = Sizes(count, names(methods), numbers(budgets, "--budgets"), corruptions, seed)
    if BASELINE not in sizes.methods:
        raise InputError(f"--methods: must hold {BASELINE}, which the others stand beside.")
    tables: dict[str, Any] = {"machine": describe(), "cases": {}}
    for case in cases(sizes, only):
        # The programs of all cases together are more mappings than Linux grants a process.
        jax.clear_caches()
        tables["cases"][case.name] = found = measure(case, out)
        print(markdown(found), flush=True)
        if json_file is not None:
            json_file.parent.mkdir(parents=True, exist_ok=True)
            json_file.write_text(json.dumps(tables, indent=2) + "\n", encoding="utf-8")


def measure(case: Case, out: Path) -> dict[str, Any]:
    """Return the figures of a case; its runs are folders of `out`, where they resume."""
    result = _run(case, out / case.name)
    sizes = random_sizes(result)
    random = _run(
        case,
        out / f"{case.name}-random",
        methods=("random",),
        budgets=sizes,
        judge_zero_features=False,
    )
    found = {"title": case.title, **figures(result, random), **_seconds(case, out, result)}
    if case.unseen:
        swapped = _run(case.swapped(), out / f"{case.name}-swapped")
        seeded = _run(case, out / f"{case.name}-seed", seed=case.settings["seed"] + 1)
        found["stability"] = {
            "corruptions": stabilities(result, swapped),
            "seed": stabilities(result, seeded),
        }
    return found


def _run(case: Case, folder: Path, **settings: Any) -> PruneResult:
    with progress_bar(folder.name) as progress:
        return case.prune(out=folder, progress=progress, **settings)


def _seconds(case: Case, out: Path, first: PruneResult) -> dict[str, Any]:
    """Return every method's seconds a prompt, of all budgets: alone, where all is compiled; and
    in the first run, which compiles or reads what was compiled before, and where what methods
    share is counted with the first of them."""
    file = out / f"{case.name}.seconds.json"
    if not file.exists():
        alone = {name: _compiled_seconds(case, name) for name in case.settings["methods"]}
        file.write_text(json.dumps(alone) + "\n", encoding="utf-8")
    stages = first.record["seconds"]
    found = {
        "seconds_per_prompt": json.loads(file.read_text(encoding="utf-8")),
        "seconds_per_prompt_first_run": {
            m: stages[f"method {m}"]
            for m in case.settings["methods"]
            # Nothing of batches that an interrupted run had finished.
            if f"method {m}" in stages
        },
    }
    return {
        name: {method: round(value / len(case.pairs), 4) for method, value in row.items()}
        for name, row in found.items()
    }


def _compiled_seconds(case: Case, method: str) -> float:
    """Return how long a method alone takes on all pairs in a run that compiles nothing."""
    for _ in range(_MOST_RUNS):
        with progress_bar(f"{case.name}, {method} timed") as bar, compiling() as compiled:
            result = case.prune(methods=(method,), progress=bar)
        if not compiled:
            return result.record["seconds"][f"method {method}"]
    raise PieError(f"{case.name}: {method} compiles in every run; its shapes must not change.")


if __name__ == "__main__":
    typer.run(main)
