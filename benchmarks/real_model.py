"""A real model of our own: corpus, transcoders, circuits and explanations of docs/real-model.md.

Every stage skips what is done; `train` and `prune` go on where they were stopped:

python -m benchmarks.real_model corpus --texts TEXTS
python -m benchmarks.real_model train --model MODEL
python -m benchmarks.real_model prune --model MODEL --minutes 30
python -m benchmarks.real_model explain --model MODEL
python -m benchmarks.real_model tables --json benchmarks/results/real-model.json
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

import pie_jax
from benchmarks.parts.machine import PeakAnonymous, describe, write_json
from benchmarks.real import chunks, explain, tables
from benchmarks.real import weights as tradeoff
from benchmarks.real.corpus import write_corpus
from pie_jax.tasks import get_task
from pie_jax.terminal import progress_bar, quiet_orbax, use_compile_cache
from pie_jax.transcoders.training.run import TrainOptions, train_clt

HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
TASKS = chunks.TASKS
# Groups of methods in the order in which they are run: what is cheap first.
ORDER = (
    chunks.AUTO,
    chunks.CHEAP,
    chunks.SYNERGY,
    *chunks.ALL_UNSEEN,
    chunks.ONCE,
    chunks.GROWN,
    chunks.OTHERS,
)
_UNSEEN_VERSIONS = 8

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
Folder = Annotated[Path, typer.Option("--out", help="All that the stages write.")]
Model = Annotated[str, typer.Option("--model", help="Folder, or hub id.")]
_OUT = Path("real-model")


@app.command()
def corpus(
    texts: Annotated[Path, typer.Option(help="Folder with unpacked packages.")],
    out: Folder = _OUT,
    seed: int = 0,
) -> None:
    """Write corpus.jsonl from the texts that packages ship."""
    file = out / "corpus.jsonl"
    if not file.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "corpus.json", {"characters": write_corpus(texts, file, seed)})


@app.command()
def train(
    model: Model = HUB,
    out: Folder = _OUT,
    features: int = 1024,
    k: int = 24,
    steps: int = 450,
    batch: Annotated[int, typer.Option(help="Windows of 72 tokens a step.")] = 4,
    refit: Annotated[int, typer.Option(help="Batches for the last least squares.")] = 160,
    rate: Annotated[float, typer.Option(help="Of learning.")] = 4e-3,
) -> None:
    """Train a TopK transcoder a layer on the corpus."""
    use_compile_cache()
    quiet_orbax()
    options = TrainOptions(
        features=features,
        l0=k,
        steps=steps,
        batch=batch,
        learning_rate=rate,
        kind="per-layer",
        activation="topk",
        heldout=150,
        refit=refit,
    )
    with progress_bar("train") as bar, PeakAnonymous() as memory:
        report = train_clt(
            pie_jax.load_model(model),
            [out / "corpus.jsonl"],
            out / "transcoder",
            options,
            progress=lambda step, total, now: bar(step, total, f"{now['explained_variance']:.3f}"),
        )
    if not (out / "train.json").exists():
        seconds = {"seconds": report.seconds, "peak_gib": memory.bytes / 2**30}
        write_json(out / "train.json", seconds)


@app.command()
def prune(
    model: Model = HUB,
    out: Folder = _OUT,
    count: Annotated[int, typer.Option("-n", help="Pairs a task.")] = 32,
    minutes: Annotated[float, typer.Option(help="After which no chunk is begun.")] = 600,
    only: Annotated[str | None, typer.Option(help="One group of methods.")] = None,
    seed: int = 0,
) -> None:
    """Prune the pairs of both tasks with every method, some pairs at a time."""
    use_compile_cache()
    loaded = pie_jax.load_model(model)
    transcoder = pie_jax.load_transcoder(out / "transcoder")
    deadline = time.monotonic() + 60 * minutes
    groups = [group for group in ORDER if only in (None, group.name)]
    work = list(_work(loaded, transcoder, out, groups, count, seed))
    with PeakAnonymous() as memory:
        left = chunks.run_chunks(work, deadline, lambda line: print(line, flush=True))
    print(f"{left} of {len(work)} chunks left", flush=True)
    write_json(out / "prune.json", {"peak_gib": memory.bytes / 2**30})


def _work(
    model: Any,
    transcoder: Any,
    out: Path,
    groups: Sequence[chunks.Group],
    count: int,
    seed: int,
) -> list[tuple[Path, Callable[[], dict[str, Any]]]]:
    """Return the chunks of all groups: the first of each, and then group by group, pairs of both
    tasks in turn; unseen corruptions, and what takes minutes a prompt, have IOI alone."""
    found = []
    for number, group in enumerate(groups):
        versions = _UNSEEN_VERSIONS if group in chunks.ALL_UNSEEN else 1
        for task in TASKS[:1] if group in chunks.IOI_ALONE else TASKS:
            pairs = get_task(task).generate(
                count, seed=seed, tokenizer=model.tokenizer, n_corruptions=versions
            )
            for path, which in chunks.chunk_files(out / "prune", task, group, count):
                run = partial(chunks.measure_chunk, model, transcoder, pairs[which], group, seed)
                found.append(((which.start > 0, number, which.start), path, run))
    return [(path, run) for _, path, run in sorted(found, key=lambda one: one[0])]


@app.command()
def weights(
    model: Model = HUB,
    out: Folder = _OUT,
    minutes: Annotated[float, typer.Option(help="After which no chunk is begun.")] = 600,
    picture: Annotated[Path | None, typer.Option(help="SVG of the trade-off.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
    seed: int = 1,
) -> None:
    """Find circuits of pairs kept aside under several weights of the complement."""
    use_compile_cache()
    transcoder = pie_jax.load_transcoder(out / "transcoder")
    work = list(
        _work(pie_jax.load_model(model), transcoder, out / "aside", chunks.WEIGHTS, 8, seed)
    )
    deadline = time.monotonic() + 60 * minutes
    left = chunks.run_chunks(work, deadline, lambda line: print(line, flush=True))
    print(f"{left} of {len(work)} chunks left", flush=True)
    found = tradeoff.weights(out / "aside", TASKS)
    print("\n".join(tradeoff.rows(found)))
    if picture is not None:
        tradeoff.draw(found, picture)
    if json_file is not None:
        write_json(json_file, {"machine": describe(), **found})


@app.command(name="explain")
def explain_stage(
    model: Model = HUB,
    out: Folder = _OUT,
    features: Annotated[int, typer.Option(help="Kept features, and others.")] = 20,
    count: Annotated[int, typer.Option("-n", help="Pairs of each task.")] = 16,
    documents: int = 400,
    seed: int = 0,
) -> None:
    """Explain and score kept features, random active ones, and shuffled explanations."""
    use_compile_cache()
    file = out / "explain.json"
    if not file.exists():
        loaded = pie_jax.load_model(model)
        transcoder = pie_jax.load_transcoder(out / "transcoder")
        texts = out / "corpus.jsonl"
        sizes = explain.Sizes(count, features, documents, seed)
        write_json(file, explain.scores(loaded, transcoder, texts, sizes))


@app.command(name="tables")
def tables_stage(
    out: Folder = _OUT, json_file: Annotated[Path | None, typer.Option("--json")] = None
) -> None:
    """Print all tables, and write their figures as JSON."""
    found = {"machine": describe(), **tables.figures(out, TASKS, ORDER)}
    print("\n".join(tables.markdown(found)))
    if json_file is not None:
        write_json(json_file, json.loads(json.dumps(found)))


if __name__ == "__main__":
    app()
