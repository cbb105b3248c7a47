"""`pie-jax prune`: stage I on the user's own model, transcoder and pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from pie_jax.cli import options as opt
from pie_jax.cli.in_parts import InParts
from pie_jax.cli.tables import kl_table, report_skips, task_table
from pie_jax.terminal import console, progress_bar, use_compile_cache


def prune(
    pairs: Annotated[Path, typer.Option(help="JSONL of clean and corrupted prompts.")],
    out: Annotated[Path, typer.Option(help="Results folder; the same command resumes it.")],
    model: opt.Model = "demo",
    transcoder: opt.Transcoder = "demo",
    method: opt.Methods = opt.DEFAULT_METHODS,
    budget: opt.Budgets = opt.PAPER_BUDGETS,
    metric: Annotated[str, typer.Option(help="logit-diff or logsumexp.")] = "logit-diff",
    corruption: Annotated[
        str, typer.Option(help="corrupted-prompt or zero-features.")
    ] = "corrupted-prompt",
    judge_corruptions: Annotated[
        str, typer.Option(help="Judge on the same corruptions, or keep half unseen for judging.")
    ] = "same",
    judge_zero_features: opt.JudgeZeroFeatures = False,
    gradient: Annotated[
        str, typer.Option(help="FAP's gradient: frozen (as published) or full.")
    ] = "frozen",
    scope_layers: Annotated[
        str, typer.Option(help="Keep the best of all layers (global) or of each (per-layer).")
    ] = "global",
    scope: Annotated[
        str,
        typer.Option(
            help="prompt: occurrences for each prompt. task: unique features for all prompts, "
            "found on every other pair; a budget counts those."
        ),
    ] = "prompt",
    dtype: opt.Dtype = "float32",
    batch_size: opt.BatchSize = 8,
    encoders: Annotated[
        Literal["device", "disk"], typer.Option(help="Where the encoders stay.")
    ] = "device",
    synergy_lambda: Annotated[float, typer.Option(help="Weight of synergy.")] = 3.0,
    synergy_boundary_percent: Annotated[
        float, typer.Option(help="Width of the reranked band, in percent of K.")
    ] = 25.0,
    synergy_boundary_cap: Annotated[int, typer.Option(help="Most candidates reranked.")] = 32,
    synergy_partners: Annotated[int, typer.Option(help="Core members they may meet.")] = 32,
    synergy_partners_per_candidate: Annotated[
        int, typer.Option(help="Partners that each candidate meets.")
    ] = 8,
    on_bad_pair: Annotated[
        str, typer.Option(help="error, or skip (counted and named in run.json).")
    ] = "error",
    seed: opt.Seed = 0,
    mesh: opt.Mesh = None,
    distributed: opt.Distributed = False,
    coordinator: opt.Coordinator = None,
    processes: opt.Processes = None,
    process: opt.Process = None,
) -> None:
    """Score, select and judge the features behind a behaviour.

    Examples:

    \b
    pie-jax tasks ioi --model demo -n 64 --out pairs.jsonl
    pie-jax prune --pairs pairs.jsonl --budget 10,20,40 --out results
    pie-jax prune --pairs pairs.jsonl --scope task --method auto --budget 40 --out task
    pie-jax prune --pairs pairs.jsonl --dtype bfloat16 --out results \\
        --model meta-llama/Llama-3.2-1B --transcoder mntss/clt-llama-3.2-1b-524k
    pie-jax prune --pairs pairs.jsonl --mesh data=4,model=2 --out results
    """
    import pie_jax
    from pie_jax.cli.devices import join_devices
    from pie_jax.devices.processes import is_first, naming_lost_processes
    from pie_jax.prune.checks import check_options, check_scope
    from pie_jax.prune.options import PruneOptions, SynergyOptions

    settings = PruneOptions(
        methods=opt.names(method),
        budgets=opt.numbers(budget, "--budget"),
        metric=metric,
        corruption=corruption,
        judge_corruptions=judge_corruptions,
        judge_zero_features=judge_zero_features,
        gradient=gradient,
        scope_layers=scope_layers,
        on_bad_pair=on_bad_pair,
        batch_size=batch_size,
        seed=seed,
        synergy=SynergyOptions(
            weight=synergy_lambda,
            boundary_percent=synergy_boundary_percent,
            boundary_cap=synergy_boundary_cap,
            partners=synergy_partners,
            partners_per_candidate=synergy_partners_per_candidate,
        ),
    )
    # Before anything large is loaded.
    check_scope(scope)
    check_options(settings)
    rows = pie_jax.load_pairs(pairs)
    use_compile_cache()
    devices = join_devices(mesh, distributed, coordinator, processes, process)
    language_model = pie_jax.load_model(model, dtype, mesh=devices)
    clt = pie_jax.load_transcoder(transcoder, encoders_on_disk=encoders == "disk", mesh=devices)
    with progress_bar("prune") as progress, naming_lost_processes():
        shown = progress if is_first() else None
        find = pie_jax.prune_task if scope == "task" else pie_jax.prune
        result = find(
            language_model, clt, rows, settings, out=out, progress=shown, source=str(pairs)
        )
    if not is_first():
        return
    # For the report, which shows them.
    pie_jax.tasks.write_pairs(out / "pairs.jsonl", rows)
    table = InParts(task_table(result), keep=2) if scope == "task" else InParts(kl_table(result))
    console.print(table)
    report_skips(result)
    console.print(f"results: {out}")
