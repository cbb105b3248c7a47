"""Options that several commands share, and their parsing."""

from __future__ import annotations

from typing import Annotated

import typer

from pie_jax.errors import InputError

Model = Annotated[
    str, typer.Option(help="`demo`, a Hugging Face folder, or a hub id (owner/name[@revision]).")
]
Transcoder = Annotated[
    str, typer.Option(help="`demo`, a circuit-tracer folder, or a hub id (owner/name[@revision]).")
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
BatchSize = Annotated[int, typer.Option(help="Prompts side by side.")]
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
