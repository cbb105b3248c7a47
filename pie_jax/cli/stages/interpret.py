"""`pie-jax interpret`: put the kept features of a run into words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pie_jax.cli import options as opt
from pie_jax.cli.output import Output
from pie_jax.cli.stages import stage_options as stage
from pie_jax.cli.stages.llm_options import NO_LLM, LLMOptions, with_llm_options
from pie_jax.terminal import progress_bar


@with_llm_options()
def interpret(
    run: Annotated[Path, typer.Argument(help="Results folder with examples.")],
    llm: LLMOptions = NO_LLM,
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

    roles = llm.roles()
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
