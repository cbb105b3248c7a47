"""`pie-jax plan`: memory and speed of a run, before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from pie_jax.cli import options as opt
from pie_jax.cli import prompts
from pie_jax.cli.in_parts import InParts
from pie_jax.defaults import MIN_TOKENS
from pie_jax.errors import InputError
from pie_jax.prune.plan.sizes import parse_size, show_size
from pie_jax.terminal import console

if TYPE_CHECKING:
    from pie_jax.prune.plan.estimate import Plan
    from pie_jax.prune.plan.speed import Rates


def plan(
    device_memory: Annotated[str, typer.Option(help="Such as 80GiB; on a CPU the host's.")],
    model: Annotated[
        str, typer.Option(help="As for prune, or a preset such as llama-3.2-1b.")
    ] = "demo",
    transcoder: Annotated[
        str, typer.Option(help="As for prune, or sizes: 16x32768 (layers x features a layer).")
    ] = "demo",
    host_memory: Annotated[
        str | None, typer.Option(help="Such as 24GiB: what may keep files that were read.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Prompts side by side; default: 8, or what fits.")
    ] = None,
    pairs: Annotated[Path | None, typer.Option(help="Plan for these prompts.")] = None,
    tokens: Annotated[
        int | None, typer.Option(help="Without --pairs: tokens of a prompt; default: 18.")
    ] = None,
    active: Annotated[
        float, typer.Option(help="Features active per token and layer, on either run.")
    ] = 64.0,
    method: opt.Methods = opt.DEFAULT_METHODS,
    budget: opt.Budgets = opt.PAPER_BUDGETS,
    metric: Annotated[str, typer.Option(help=prompts.METRIC_HELP)] = "logit-diff",
    corruption: Annotated[str, typer.Option(help=prompts.CORRUPTION_HELP)] = "corrupted-prompt",
    min_tokens: Annotated[
        int, typer.Option(help="Shorter prompts, BOS counted, are bad pairs.")
    ] = MIN_TOKENS,
    more_corruptions: opt.MoreCorruptions = 0,
    judge_zero_features: opt.JudgeZeroFeatures = False,
    dtype: opt.Dtype = "float32",
) -> None:
    """Say what a pruning run takes and where it goes; no weights are loaded.

    Examples:

    \b
    pie-jax plan --device-memory 16GiB --pairs pairs.jsonl
    pie-jax plan --device-memory 80GiB --host-memory 128GiB --dtype bfloat16 \\
        --model llama-3.2-1b --transcoder 16x32768
    """
    from pie_jax.prune.checks import check_options
    from pie_jax.prune.options import PruneOptions
    from pie_jax.prune.plan.estimate import (
        load_of_pairs,
        load_of_tokens,
        make_plan,
        measure_rates,
        open_names,
    )
    from pie_jax.tasks import read_pairs

    settings = PruneOptions(
        methods=opt.names(method),
        budgets=opt.numbers(budget, "--budget"),
        batch_size=8 if batch_size is None else batch_size,
        more_corruptions=more_corruptions,
        judge_zero_features=judge_zero_features,
        metric=metric,
        corruption=corruption,
        min_tokens=min_tokens,
    )
    check_options(settings)
    device = parse_size(device_memory, "--device-memory")
    host = None if host_memory is None else parse_size(host_memory, "--host-memory")
    if pairs is not None and tokens is not None:
        raise InputError("--tokens: follows from --pairs; give one of them.")
    opened = open_names(model, transcoder, dtype)
    if pairs is None:
        load = load_of_tokens(18 if tokens is None else tokens, active, settings)
    else:
        load = load_of_pairs(model, read_pairs(pairs), settings, active, str(pairs))
    made = make_plan(opened.shapes, load, settings, device=device, host=host, batch=batch_size)
    console.print(InParts(_places(made)))
    console.print(InParts(_batch(made)))
    for line in _verdict(made):
        console.print(line, highlight=False, soft_wrap=True)
    if made.largest is not None:
        rates = measure_rates(made, dtype, opened.transcoder)
        console.print(_estimate(made, rates), highlight=False, soft_wrap=True)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column == "size" else "left")
    return table


def _places(plan: Plan) -> Table:
    table = _table("what goes where", "what", "where", "size")
    said = {"host": "host memory (mapped files)", "disk": "disk (mapped files)"}
    for name, (where, size) in plan.places().items():
        table.add_row(name, said.get(where, where), show_size(size))
    return table


def _batch(plan: Plan) -> Table:
    from pie_jax.prune.plan import memory

    shapes, load, options = plan.shapes, plan.load, plan.options
    of = f"{load.batch} prompts of {load.real} tokens"
    table = _table(f"a batch of {of}, on the device", "what", "how long", "size")
    for name, size in memory.batch_arrays(shapes, load).items():
        table.add_row(name, "two batches", show_size(size))
    table.add_row(
        "writes in total", "one batch", show_size(memory.total_writes_bytes(shapes, load))
    )
    table.add_row("both runs, encoding", "preparing", show_size(memory.reading_bytes(shapes, load)))
    for name, size in memory.working_bytes(shapes, load, options).items():
        if size:
            table.add_row(name, "computing", show_size(size))
    table.add_row("peak", "", show_size(memory.batch_bytes(shapes, load, options)))
    return table


def _verdict(plan: Plan) -> list[str]:
    from pie_jax.prune.plan import memory

    room = f"{memory.USABLE:.0%} of {show_size(plan.device)}"
    host = memory.host_bytes(plan.shapes, plan.load)
    lines = [f"device: {show_size(plan.needed)} with the batch, of {room}"]
    short = plan.host is not None and plan.host < host
    of = "" if plan.host is None else f" of {show_size(plan.host)}"
    lines.append(f"host: {show_size(host)}{of}" + ("; that is not enough" if short else ""))
    if plan.largest is None:
        return [*lines, "does not fit: not even one prompt at a time"]
    most = "or more" if plan.largest == memory.MOST_PROMPTS else "at most"
    lines.append(f"largest batch: {plan.largest} prompts ({most})")
    if not plan.fits:
        lines.append(f"--batch-size {plan.load.batch} does not fit; use {plan.largest}")
    size = min(plan.load.batch, plan.largest)
    return [*lines, f"use: --encoders {plan.encoders} --batch-size {size}"]


def _estimate(plan: Plan, rates: Rates) -> str:
    from pie_jax.prune.plan.speed import seconds

    found = seconds(plan.shapes, plan.load, plan.options, plan.encoders, rates)
    read = "reading rows not measured: the files are not here"
    if rates.rows is not None:
        read = f"rows {rates.rows / 1e9:.2f} GB/s"
    return (
        f"estimate: at best {found.prompts_per_second(plan.load.batch):.3g} prompts/s "
        f"(preparing {found.prepare:.3g} s, computing {found.compute:.3g} s a batch; docs/plan.md) "
        f"at this machine's rates: product {rates.flops / 1e9:,.0f} GFLOP/s, copy "
        f"{rates.copy / 1e9:,.1f} GB/s, {read}"
    )
