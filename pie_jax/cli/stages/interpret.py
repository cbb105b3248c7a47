"""`pie-jax interpret`: put the kept features of a run into words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pie_jax.cli import options as opt
from pie_jax.cli.output import Output
from pie_jax.cli.stages import stage_options as stage
from pie_jax.terminal import progress_bar


def interpret(
    run: Annotated[Path, typer.Argument(help="Results folder with examples.")],
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
    method: stage.Method = None,
    budget: stage.Budget = None,
    features: stage.Features = 40,
    baselines: stage.Baselines = 40,
    candidates: Annotated[
        int, typer.Option(help="Explanations to draw, of which the judge's best is kept.")
    ] = 1,
    contrast: Annotated[
        int, typer.Option(help="Windows without the feature that an LLM sees beside the others.")
    ] = 0,
    model: stage.MovedModel = None,
    dry_run: stage.DryRun = False,
    seed: opt.Seed = 0,
) -> None:
    """Explain kept features, and those they are compared with; repeat it to resume.

    Examples:

    \b
    pie-jax interpret results
    pie-jax interpret results --base-url http://127.0.0.1:8000/v1 --explainer-model NAME --dry-run
    """
    from pie_jax.features.groups import Chosen
    from pie_jax.interpret.explainers import ExplainOptions
    from pie_jax.interpret.stage import estimate_interpretation, interpret_run
    from pie_jax.llm.roles import make_roles

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
    chosen = Chosen(method, budget, features, baselines, seed)
    options = ExplainOptions(candidates=candidates, contrast=contrast)
    if dry_run:
        found = estimate_interpretation(run, chosen, roles, options=options, model=model)
        stage.report_estimate("interpret", roles, found)
        return
    with progress_bar("interpret") as progress:
        explained = interpret_run(
            run, chosen, roles, options=options, model=model, progress=progress
        )
    stage.report_failures(run, "interpret")
    failed = sum(one.text is None for one in explained)
    Output().say(
        f"{len(explained)} features, {failed} without an explanation (why: status)\n"
        f"explanations: {run / 'explanations.jsonl'}"
    )
