"""`pie-jax examples`: what makes the features of a run fire."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pie_jax.cli import options as opt
from pie_jax.cli.output import Output
from pie_jax.cli.stages import stage_options as stage
from pie_jax.errors import InputError
from pie_jax.terminal import progress_bar, use_compile_cache

if TYPE_CHECKING:
    from pie_jax.features.examples.options import ExampleOptions
    from pie_jax.features.groups import Chosen


def examples(
    run: Annotated[Path, typer.Argument(help="Results folder of `pie-jax prune`.")],
    corpus: Annotated[
        list[Path] | None,
        typer.Option(help="Text, JSONL or Parquet with a column text; repeatable."),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(help="URL or folder of published examples, in place of --corpus."),
    ] = None,
    method: stage.Method = None,
    budget: stage.Budget = None,
    features: stage.Features = 0,
    baselines: stage.Baselines = 40,
    window: Annotated[int, typer.Option(help="Tokens a window, BOS counted.")] = 32,
    top: Annotated[int, typer.Option(help="Windows with the highest activation to keep.")] = 50,
    per_decile: Annotated[
        int, typer.Option(help="Windows to keep from each tenth of the activation range.")
    ] = 10,
    inactive: Annotated[int, typer.Option(help="Windows without the feature to keep.")] = 60,
    neighbours: Annotated[
        int, typer.Option(help="Features with the nearest decoders to name; 0 skips the search.")
    ] = 5,
    max_windows: Annotated[int | None, typer.Option(help="Stop after so many windows.")] = None,
    shard: Annotated[
        str, typer.Option(help="I/N: only part I of N of the corpus; the last part merges all.")
    ] = "0/1",
    model: stage.MovedModel = None,
    transcoder: stage.MovedTranscoder = None,
    batch_size: Annotated[int, typer.Option(help="Windows side by side.")] = 32,
    seed: opt.Seed = 0,
) -> None:
    """Find the windows of a corpus, or of a published store, on which kept features, and those they
    are compared with, fire.

    Resumes if interrupted.

    Examples:

    \b
    pie-jax examples results --corpus corpus.jsonl
    pie-jax examples results --corpus a.parquet --corpus b.parquet --method fap --budget 100
    pie-jax examples results --store https://huggingface.co/OWNER/NAME/resolve/main
    """
    from pie_jax.features.examples.options import ExampleOptions
    from pie_jax.features.groups import Chosen
    from pie_jax.interpret.stage import examples_run

    if (store is None) == (not corpus):
        raise InputError("give either --corpus or --store, and not both.")
    if store is not None and (window, max_windows, shard) != (32, None, "0/1"):
        raise InputError("--window, --max-windows and --shard are of a corpus; leave them out.")
    options = ExampleOptions(
        window=window,
        top=top,
        per_decile=per_decile,
        inactive=inactive,
        neighbours=neighbours,
        max_windows=max_windows,
        batch_size=batch_size,
        seed=seed,
    )
    chosen = Chosen(method, budget, features, baselines, seed)
    part = _shard(shard)
    use_compile_cache()
    if store is not None:
        _from_store(run, store, chosen, options, model, transcoder)
        return
    assert corpus is not None
    with progress_bar("examples") as progress:
        found = examples_run(
            run,
            corpus,
            chosen,
            options,
            shard=part,
            model=model,
            transcoder=transcoder,
            progress=progress,
        )
    if found is None:
        Output().say(f"part {shard} is done; the last of the {part[1]} parts writes the results")
        return
    silent = sum(not one.tokens_active for one in found)
    Output().say(
        f"{len(found)} features on {found[0].tokens_seen:,} tokens; {silent} never fired\n"
        f"examples: {run / 'examples.parquet'}"
    )


def _from_store(
    run: Path,
    store: str,
    chosen: Chosen,
    options: ExampleOptions,
    model: str | None,
    transcoder: str | None,
) -> None:
    from pie_jax.interpret.stage import store_examples_run

    with progress_bar("examples") as progress:
        found = store_examples_run(
            run, store, chosen, options, model=model, transcoder=transcoder, progress=progress
        )
    without = sum(not one.top for one in found.examples)
    lines = [f"{len(found.examples)} features from {store}; {without} without windows"]
    if found.missing:
        names = ", ".join(f"{layer}/{feature}" for layer, feature in found.missing)
        lines.append(f"not in the store (layer/feature): {names}")
    lines += [f"failed: {reason}" for reason in found.failed.values()]
    if found.failed:
        lines.append("repeat the command to try again what failed")
    if found.unreadable:
        lines.append(f"left out: {found.unreadable} windows that hold no tokens of the model")
    Output().say("\n".join([*lines, f"examples: {run / 'examples.parquet'}"]))


def _shard(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal()):
        raise InputError(f"--shard `{text}` is not of the form I/N, such as 0/4.")
    return int(part), int(parts)
