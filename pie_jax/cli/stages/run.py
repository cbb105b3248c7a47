"""`pie-jax run`: the main job with nothing to prepare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from pie_jax.cli import options as opt
from pie_jax.cli import prompts
from pie_jax.cli.output import Format, Output
from pie_jax.cli.rows import kl_rows, score_rows
from pie_jax.cli.stages import stage_options as stage
from pie_jax.cli.stages.llm_options import NO_LLM, LLMOptions, with_llm_options
from pie_jax.cli.tables import kl_table, report_skips, score_table
from pie_jax.errors import InputError
from pie_jax.terminal import progress_bar, use_compile_cache


@with_llm_options()
def run(
    model: opt.Model = "demo",
    transcoder: opt.Transcoder = "demo",
    pairs: Annotated[
        Path | None, typer.Option(help=prompts.PAIRS_HELP + " Default: a task's.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="One prompt, instead of pairs.")] = None,
    target: Annotated[
        str | None,
        typer.Option(help="Its answer, one token with its space; default: the likeliest."),
    ] = None,
    distractor: Annotated[
        str | None,
        typer.Option(help="Its other answer; default: the mean logit of the vocabulary."),
    ] = None,
    corrupted: Annotated[
        str | None, typer.Option(help="Its corrupted version; default: features set to zero.")
    ] = None,
    suggest_corruption: prompts.Suggest = False,
    task: Annotated[
        str | None, typer.Option(help="pronoun (default), facts, ioi, docstring.")
    ] = None,
    count: Annotated[
        int | None, typer.Option("-n", "--count", help="How many pairs of the task; default 16.")
    ] = None,
    metric: Annotated[str | None, typer.Option(help=prompts.METRIC_HELP)] = None,
    corruption: Annotated[str | None, typer.Option(help=prompts.CORRUPTION_HELP)] = None,
    on_bad_pair: opt.OnBadPair = "error",
    min_tokens: opt.MinTokens = None,
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
    llm: LLMOptions = NO_LLM,
    scorers: stage.Scorers = stage.SCORERS,
    preset: stage.Preset = "default",
    dtype: opt.Dtype = "float32",
    encoders: opt.Encoders = "device",
    batch_size: opt.BatchSize = 8,
    seed: opt.Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option(help="Results folder; default: pie-results, or one named by your prompts."),
    ] = None,
    shown_as: Format = "table",
) -> None:
    """Prune a circuit, explain and score its features, and write a report.

    On your own pairs, one prompt or a task; by default on the demo that ships with pie_jax,
    offline. Another model needs a corpus for what follows pruning. The features are those of the
    first method at the middle budget.

    Examples:

    \b
    pie-jax run
    pie-jax run --prompt "When Mary and John went home, John gave a drink to"
    pie-jax run --pairs pairs.jsonl --corpus corpus.jsonl --out results \\
        --model meta-llama/Llama-3.2-1B --transcoder mntss/clt-llama-3.2-1b-524k
    pie-jax run --task docstring -n 64 --out docstring
    pie-jax run --base-url http://127.0.0.1:8000/v1 --explainer-model NAME --max-calls 2000
    """
    import pie_jax
    from pie_jax.demo.corpus import example_corpus
    from pie_jax.evaluate.presets import get_preset
    from pie_jax.evaluate.scorers import get_scorers
    from pie_jax.features.groups import Chosen
    from pie_jax.prune.checks import check_options
    from pie_jax.prune.options import PruneOptions
    from pie_jax.tasks import write_pairs

    asked = prompts.Asked(
        task=task,
        count=count,
        pairs=pairs,
        prompt=prompt,
        target=target,
        distractor=distractor,
        corrupted=corrupted,
        suggest=suggest_corruption,
        metric=metric,
        corruption=corruption,
        min_tokens=min_tokens,
    )
    asked.check()
    output, out = Output(shown_as), asked.folder() if out is None else out
    settings = PruneOptions(
        methods=opt.names(method),
        budgets=opt.numbers(budget, "--budget"),
        batch_size=batch_size,
        seed=seed,
        on_bad_pair=on_bad_pair,
        **asked.settings(),
    )
    check_options(settings)
    roles = llm.roles()
    names = opt.names(scorers)
    get_preset(preset)
    get_scorers(names)
    chosen = Chosen(features=features, baselines=baselines, seed=seed)
    chosen.check()
    for path in corpus or ():
        if not path.exists():
            raise InputError(f"--corpus {path}: does not exist; name a file of texts.")
    read = None if pairs is None else pie_jax.load_pairs(pairs)
    use_compile_cache()
    language_model = pie_jax.load_model(model, dtype)
    clt = pie_jax.load_transcoder(transcoder, encoders_on_disk=encoders == "disk")
    rows = prompts.pairs_for(asked, read, language_model, model, seed)
    if suggest_corruption:
        rows = prompts.suggested(rows, language_model, asked.source(), output)
    if prompt is not None:
        prompts.say_of_prompt(asked, rows[0], language_model, output)
    with progress_bar(f"{asked.label()}: prune") as progress:
        result = pie_jax.prune(
            language_model,
            clt,
            rows,
            settings,
            out=out,
            progress=progress,
            source=asked.source(),
        )
    write_pairs(out / "pairs.jsonl", rows)
    output.show("kl", kl_rows(result), kl_table(result))
    report_skips(result, output)
    if stages == "all" and not corpus and model != "demo":
        output.say("stopped after pruning: what follows needs a corpus; name one with --corpus")
    elif stages == "all":
        with progress_bar("examples") as progress:
            pie_jax.examples_run(
                out,
                corpus or example_corpus(),
                chosen,
                model=language_model,
                transcoder=clt,
                progress=progress,
            )
        with progress_bar("interpret") as progress:
            pie_jax.interpret_run(out, chosen, roles, progress=progress)
        with progress_bar("evaluate") as progress:
            table = pie_jax.evaluate_run(
                out,
                roles,
                preset=preset,
                scorers=names,
                model=language_model,
                transcoder=clt,
                progress=progress,
            )
        for name in ("interpret", "evaluate"):
            stage.report_failures(out, name)
        output.show("scores", score_rows(table), score_table(table))
    try:
        # Of the first pair's circuit; the report links to it.
        pie_jax.graph_run(out, model=language_model, transcoder=clt)
    except pie_jax.InputError as error:
        output.say(f"no graph of the first pair: {error}")
    report = pie_jax.report_run(out, model=language_model, transcoder=clt)
    output.say(f"results: {out}\nreport: {report}")
    output.finish()
