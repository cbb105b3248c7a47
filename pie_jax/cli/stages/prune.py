"""`pie-jax prune`: stage I on the user's own model, transcoder and pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pie_jax.cli import options as opt
from pie_jax.cli import prompts
from pie_jax.cli.output import Format, Output
from pie_jax.cli.rows import kl_rows, task_rows
from pie_jax.cli.tables import kl_table, report_skips, task_table
from pie_jax.defaults import MIN_TOKENS
from pie_jax.errors import InputError
from pie_jax.terminal import progress_bar, use_compile_cache


def prune(
    pairs: Annotated[Path, typer.Option(help=prompts.PAIRS_HELP)],
    out: Annotated[Path, typer.Option(help="Results folder; the same command resumes it.")],
    model: opt.Model = "demo",
    transcoder: opt.Transcoder = "demo",
    method: opt.Methods = opt.DEFAULT_METHODS,
    budget: opt.Budgets = opt.PAPER_BUDGETS,
    metric: Annotated[str, typer.Option(help=prompts.METRIC_HELP)] = "logit-diff",
    corruption: Annotated[str, typer.Option(help=prompts.CORRUPTION_HELP)] = "corrupted-prompt",
    suggest_corruption: prompts.Suggest = False,
    judge_corruptions: Annotated[
        str, typer.Option(help="Judge on the same corruptions, or keep half unseen for judging.")
    ] = "same",
    more_corruptions: opt.MoreCorruptions = 0,
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
    encoders: opt.Encoders = "device",
    synergy_lambda: Annotated[float, typer.Option(help="Weight of synergy.")] = 3.0,
    synergy_boundary_percent: Annotated[
        float, typer.Option(help="Width of the reranked band, in percent of K.")
    ] = 25.0,
    synergy_boundary_cap: Annotated[int, typer.Option(help="Most candidates reranked.")] = 32,
    synergy_partners: Annotated[int, typer.Option(help="Core members they may meet.")] = 32,
    synergy_partners_per_candidate: Annotated[
        int, typer.Option(help="Partners that each candidate meets.")
    ] = 8,
    on_bad_pair: opt.OnBadPair = "error",
    min_tokens: Annotated[
        int, typer.Option(help="Shorter prompts, BOS counted, are bad pairs.")
    ] = MIN_TOKENS,
    seed: opt.Seed = 0,
    mesh: opt.Mesh = None,
    distributed: opt.Distributed = False,
    coordinator: opt.Coordinator = None,
    processes: opt.Processes = None,
    process: opt.Process = None,
    shown_as: Format = "table",
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
    from pie_jax.prune.results.tables import PruneResult
    from pie_jax.prune.task_circuits.results import TaskResult

    settings = PruneOptions(
        methods=opt.names(method),
        budgets=opt.numbers(budget, "--budget"),
        metric=metric,
        corruption=corruption,
        judge_corruptions=judge_corruptions,
        more_corruptions=more_corruptions,
        judge_zero_features=judge_zero_features,
        gradient=gradient,
        scope_layers=scope_layers,
        on_bad_pair=on_bad_pair,
        min_tokens=min_tokens,
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
    rows, output = pie_jax.load_pairs(pairs), Output(shown_as)
    if suggest_corruption and corruption == "zero-features":
        raise InputError("--suggest-corruption: zero-features needs no corrupted prompt.")
    use_compile_cache()
    devices = join_devices(mesh, distributed, coordinator, processes, process)
    language_model = pie_jax.load_model(model, dtype, mesh=devices)
    clt = pie_jax.load_transcoder(transcoder, encoders_on_disk=encoders == "disk", mesh=devices)
    if suggest_corruption:
        rows = prompts.suggested(rows, language_model, str(pairs), output)
    with progress_bar("prune") as progress, naming_lost_processes():
        shown = progress if is_first() else None
        find = pie_jax.prune_task if scope == "task" else pie_jax.prune_pairs
        result: PruneResult | TaskResult = find(
            language_model, clt, rows, settings, out=out, progress=shown, source=str(pairs)
        )
    if not is_first():
        return
    # For the report, which shows them.
    pie_jax.tasks.write_pairs(out / "pairs.jsonl", rows)
    if isinstance(result, TaskResult):
        output.show("kl", task_rows(result), task_table(result), keep=2)
    else:
        output.show("kl", kl_rows(result), kl_table(result))
    report_skips(result, output)
    output.say(f"results: {out}")
    output.finish()
