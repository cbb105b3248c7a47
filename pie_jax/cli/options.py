"""Options that several commands share, and their parsing."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from pie_jax import defaults
from pie_jax.errors import InputError

DEFAULT_METHODS = ",".join(defaults.DEFAULT_METHODS)
PAPER_BUDGETS = ",".join(map(str, defaults.PAPER_BUDGETS))

Model = Annotated[
    str, typer.Option(help="`demo`, a Hugging Face folder, or a hub id (owner/name\\[@revision]).")
]
Transcoder = Annotated[
    str,
    typer.Option(
        help="`demo`, a transcoder's folder, or a hub id (owner/name\\[/folder]\\[@revision])."
    ),
]
Dtype = Annotated[str, typer.Option(help="Weights on the device: float32 or bfloat16.")]
Methods = Annotated[
    str,
    typer.Option(
        "--method",
        help="Comma-separated: auto, learned, staged, integrated-gradients, fap, fap-full, "
        "fap-synergy, fap-hvp, relp, factp, acdc, "
        "activation-magnitude, random.",
    ),
]
Budgets = Annotated[
    str, typer.Option("--budget", help="Comma-separated numbers of occurrences to keep.")
]
JudgeZeroFeatures = Annotated[
    bool,
    typer.Option(
        "--judge-zero-features",
        help="Judge also with what is not kept at zero activation (column kl_zero).",
    ),
]
MoreCorruptions = Annotated[
    int,
    typer.Option(
        help="Find on so many more corrupted prompts, made of the words that the pairs exchange."
    ),
]
BatchSize = Annotated[
    int, typer.Option(help="Prompts side by side; on a mesh rounded up to a multiple of `data`.")
]
Mesh = Annotated[
    str | None,
    typer.Option(
        help="Devices for prompts and for weights, like data=4,model=2; without it, one device."
    ),
]
Distributed = Annotated[
    bool,
    typer.Option(
        "--distributed",
        help="One of several processes that JAX finds (SLURM, Kubernetes, TPU pods).",
    ),
]
Coordinator = Annotated[
    str | None, typer.Option(help="HOST:PORT of process 0; with --processes and --process.")
]
Processes = Annotated[int | None, typer.Option(help="How many processes run this command.")]
Process = Annotated[int | None, typer.Option(help="Which of them this is, from 0.")]
Encoders = Annotated[Literal["device", "disk"], typer.Option(help="Where the encoders stay.")]
MinTokens = Annotated[
    int | None,
    typer.Option(
        help=f"Shorter prompts, BOS counted, are bad pairs; default {defaults.MIN_TOKENS}, as "
        "published, or 2 for --prompt."
    ),
]
OnBadPair = Annotated[str, typer.Option(help="error, or skip (counted and named in run.json).")]
Seed = Annotated[int, typer.Option(help="Seed of everything that is drawn.")]


def names(text: str) -> tuple[str, ...]:
    """Split a comma-separated list."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def numbers(text: str, option: str) -> tuple[int, ...]:
    """Split a comma-separated list of whole numbers."""
    try:
        return tuple(int(part) for part in names(text))
    except ValueError as error:
        raise InputError(
            f"{option}: `{text}` is not a list of whole numbers like 50,100."
        ) from error
