"""`pie-jax evaluate`: measure how well explanations say when their features fire."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pie_jax.cli import options as opt
from pie_jax.cli.output import Format, Output
from pie_jax.cli.rows import score_rows
from pie_jax.cli.stages import stage_options as stage
from pie_jax.cli.stages.llm_options import NO_LLM, LLMOptions, with_llm_options
from pie_jax.cli.tables import score_table
from pie_jax.terminal import progress_bar, use_compile_cache


@with_llm_options(explainer=False)
def evaluate(
    run: Annotated[Path, typer.Argument(help="Results folder with explanations.")],
    llm: LLMOptions = NO_LLM,
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

    roles = llm.judge_alone()
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
