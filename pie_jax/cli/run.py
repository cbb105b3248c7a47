"""`pie-jax run`: the main job with nothing to prepare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pie_jax.cli import options as opt
from pie_jax.cli.console import (
    console,
    kl_table,
    progress_bar,
    report_skips,
    use_compile_cache,
)


def run(
    model: opt.Model = "demo",
    transcoder: opt.Transcoder = "demo",
    task: Annotated[str, typer.Option(help="ioi or docstring.")] = "ioi",
    count: Annotated[int, typer.Option("-n", "--count", help="How many pairs.")] = 16,
    method: opt.Methods = "fap,fap-synergy,relp,activation-magnitude,random",
    budget: opt.Budgets = "5,10,20,40,80,160",
    dtype: opt.Dtype = "float32",
    batch_size: opt.BatchSize = 8,
    seed: opt.Seed = 0,
    out: Annotated[Path, typer.Option(help="Results folder.")] = Path("pie-results"),
) -> None:
    """Prune a task's circuit and write a report; by default on the demo that ships with pie_jax.

    Examples:

    \b
    pie-jax run
    pie-jax run --task docstring -n 64 --out docstring
    """
    import pie_jax
    from pie_jax.prune.checks import check_options
    from pie_jax.prune.options import PruneOptions
    from pie_jax.report import write_report
    from pie_jax.tasks import Split, get_task

    settings = PruneOptions(
        methods=opt.names(method),
        budgets=opt.numbers(budget, "--budget"),
        batch_size=batch_size,
        seed=seed,
    )
    check_options(settings)
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
    console.print(kl_table(result))
    report_skips(result)
    report = out / "report.html"
    write_report(result, report, model=language_model, transcoder=clt, pairs=pairs)
    console.print(f"results: {out}\nreport: {report}")
