"""`pie-jax convert`: a model and a transcoder to orbax checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pie_jax.cli import options as opt
from pie_jax.cli.output import Output
from pie_jax.terminal import quiet_orbax


def convert(
    out: Annotated[Path, typer.Option(help="A new folder; gets `model` and `transcoder`.")],
    model: opt.Model = "demo",
    transcoder: opt.Transcoder = "demo",
    dtype: Annotated[
        str | None,
        typer.Option(help="float32 or bfloat16; without it model float32, transcoder as stored."),
    ] = None,
) -> None:
    """Write weights so that every device of a mesh reads its own part, in parallel.

    Examples:

    \b
    pie-jax convert --model demo --transcoder demo --dtype bfloat16 --out converted
    pie-jax prune --pairs pairs.jsonl --mesh data=4,model=2 --out results \\
        --model converted/model --transcoder converted/transcoder
    """
    import pie_jax

    quiet_orbax()
    language_model = pie_jax.load_model(model, dtype or "float32")
    clt = pie_jax.load_transcoder(transcoder, encoders_on_disk=True, packed=True)
    pie_jax.convert(language_model, clt, out, dtype=dtype)
    Output().say(f"converted: {out}")
