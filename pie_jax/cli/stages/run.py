"""`pie-jax run`: the main job with nothing to prepare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from pie_jax.cli import options as opt
from pie_jax.cli.in_parts import InParts
from pie_jax.cli.stages import stage_options as stage
from pie_jax.cli.tables import kl_table, report_skips, score_table
from pie_jax.terminal import console, progress_bar, use_compile_cache


def run(
    model: opt.Model = "demo",
    transcoder: opt.Transcoder = "demo",
    task: Annotated[str, typer.Option(help="ioi or docstring.")] = "ioi",
    count: Annotated[int, typer.Option("-n", "--count", help="How many pairs.")] = 16,
    method: opt.Methods = opt.DEFAULT_METHODS,
    budget: opt.Budgets = "5,10,20,40,80,160",
    stages: Annotated[
        Literal["all", "prune"], typer.Option(help="prune stops after the first stage.")
    ] = "all",
    corpus: Annotated[
        list[Path] | None,
        typer.Option(help="Where features fire: text, JSONL or Parquet; the demo brings its own."),
    ] = None,
    features: stage.Features = 20,
    baselines: stage.Baselines = 10,
    explainer: stage.Explainer = None,
    judge: stage.Judge = None,
    base_url: stage.BaseUrl = None,
    judge_base_url: stage.JudgeBaseUrl = None,
    explainer_model: stage.ExplainerModel = None,
    judge_model: stage.JudgeModel = None,
    api_key_env: stage.ApiKeyEnv = "OPENAI_API_KEY",
    concurrency: stage.Concurrency = 8,
    rpm: stage.Rpm = None,
    tpm: stage.Tpm = None,
    max_calls: stage.MaxCalls = None,
    max_cost: stage.MaxCost = None,
    max_output_tokens: stage.MaxOutputTokens = 2048,
    timeout: stage.Timeout = 120.0,
    prices: stage.PricesOption = None,
    judge_prices: stage.JudgePrices = None,
    scorers: stage.Scorers = stage.SCORERS,
    preset: stage.Preset = "default",
    dtype: opt.Dtype = "float32",
    batch_size: opt.BatchSize = 8,
    seed: opt.Seed = 0,
    out: Annotated[Path, typer.Option(help="Results folder.")] = Path("pie-results"),
) -> None:
    """Prune a task's circuit, explain and score its features, and write a report.

    By default on the demo that ships with pie_jax, offline. Another model needs a corpus for what
    follows pruning. The features are those of the first method at the middle budget.

    Examples:

    \b
    pie-jax run
    pie-jax run --task docstring -n 64 --out docstring
    pie-jax run --base-url http://127.0.0.1:8000/v1 --explainer-model NAME --max-calls 2000
    """
    import pie_jax
    from pie_jax.demo.corpus import example_corpus
    from pie_jax.evaluate.presets import get_preset
    from pie_jax.evaluate.scorers import get_scorers
    from pie_jax.features.groups import Chosen
    from pie_jax.llm.roles import make_roles
    from pie_jax.prune.checks import check_options
    from pie_jax.prune.options import PruneOptions
    from pie_jax.tasks import Split, get_task, write_pairs

    settings = PruneOptions(
        methods=opt.names(method),
        budgets=opt.numbers(budget, "--budget"),
        batch_size=batch_size,
        seed=seed,
    )
    check_options(settings)
    roles = make_roles(
        explainer=explainer,
        judge=judge,
        base_url=base_url,
        judge_base_url=judge_base_url,
        explainer_model=explainer_model,
        judge_model=judge_model,
        prices=stage.prices(prices, "--prices"),
        judge_prices=stage.prices(judge_prices, "--judge-prices"),
        api_key_env=api_key_env,
        concurrency=concurrency,
        rpm=rpm,
        tpm=tpm,
        max_calls=max_calls,
        max_cost=max_cost,
        max_output_tokens=max_output_tokens,
        timeout=timeout,
    )
    names = opt.names(scorers)
    get_preset(preset)
    get_scorers(names)
    chosen = Chosen(features=features, baselines=baselines, seed=seed)
    chosen.check()
    use_compile_cache()
    language_model = pie_jax.load_model(model, dtype)
    clt = pie_jax.load_transcoder(transcoder)
    # The demo was trained on the other word combinations.
    split: Split = "heldout" if model == "demo" else "all"
    pairs = get_task(task).generate(
        count, seed=seed, tokenizer=language_model.tokenizer, split=split
    )
    with progress_bar(f"{task}: prune") as progress:
        result = pie_jax.prune(language_model, clt, pairs, settings, out=out, progress=progress)
    write_pairs(out / "pairs.jsonl", pairs)
    console.print(InParts(kl_table(result)))
    report_skips(result)
    weights = {"model": language_model, "transcoder": clt}
    if stages == "all" and not corpus and model != "demo":
        console.print("stopped after pruning: what follows needs a corpus; name one with --corpus")
    elif stages == "all":
        with progress_bar("examples") as progress:
            pie_jax.examples_run(
                out, corpus or example_corpus(), chosen, progress=progress, **weights
            )
        with progress_bar("interpret") as progress:
            pie_jax.interpret_run(out, chosen, roles, progress=progress)
        with progress_bar("evaluate") as progress:
            table = pie_jax.evaluate_run(
                out, roles, preset=preset, scorers=names, progress=progress, **weights
            )
        for name in ("interpret", "evaluate"):
            stage.report_failures(out, name)
        console.print(InParts(score_table(table)))
    try:
        # Of the first pair's circuit; the report links to it.
        pie_jax.graph_run(out, **weights)
    except pie_jax.InputError as error:
        console.print(f"no graph of the first pair: {error}", markup=False, soft_wrap=True)
    report = pie_jax.report_run(out, **weights)
    console.print(f"results: {out}\nreport: {report}")
