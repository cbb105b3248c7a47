"""`pie-jax evaluate`: measure how well explanations say when their features fire."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pie_jax.cli import options as opt
from pie_jax.cli.output import Format, Output
from pie_jax.cli.rows import score_rows
from pie_jax.cli.stages import stage_options as stage
from pie_jax.cli.tables import score_table
from pie_jax.terminal import progress_bar, use_compile_cache


def evaluate(
    run: Annotated[Path, typer.Argument(help="Results folder with explanations.")],
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
    model: stage.MovedModel = None,
    transcoder: stage.MovedTranscoder = None,
    dry_run: stage.DryRun = False,
    shown_as: Format = "table",
) -> None:
    """Score the explanations of the last `pie-jax interpret`; repeat it to resume.

    Examples:

    \b
    pie-jax evaluate results
    pie-jax evaluate results --judge-base-url http://127.0.0.1:8000/v1 --judge-model NAME --dry-run
    """
    from pie_jax.evaluate.stage import estimate_evaluation, evaluate_run
    from pie_jax.llm.roles import make_roles

    roles = make_roles(
        explainer="patterns",
        judge=judge,
        judge_base_url=judge_base_url or base_url,
        judge_model=judge_model or explainer_model,
        judge_prices=stage.prices(judge_prices or prices, "--prices"),
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
    if dry_run:
        found = estimate_evaluation(run, roles, preset=preset, scorers=names, model=model)
        stage.report_estimate("evaluate", roles, found)
        return
    use_compile_cache()
    with progress_bar("evaluate") as progress:
        table = evaluate_run(
            run,
            roles,
            preset=preset,
            scorers=names,
            model=model,
            transcoder=transcoder,
            progress=progress,
        )
    stage.report_failures(run, "evaluate")
    output = Output(shown_as)
    output.show("scores", score_rows(table), score_table(table))
    output.say(f"scores: {run / 'evaluation.parquet'}")
    output.finish()
