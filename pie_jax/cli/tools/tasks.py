"""`pie-jax tasks`: generate pairs of prompts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from pie_jax.cli import options as opt
from pie_jax.cli.output import Output

app = typer.Typer(
    help="Generate pairs of clean and corrupted prompts.",
    invoke_without_command=False,
    no_args_is_help=True,
)
_Model = Annotated[str, typer.Option(help="Whose tokenizer decides which words are one token.")]
_Count = Annotated[int, typer.Option("-n", "--count", help="How many pairs.")]
_Out = Annotated[Path, typer.Option(help="JSONL file to write.")]
_Corruption = Annotated[
    str | None, typer.Option(help="ioi has three: s2-random, s2-io, abc; other tasks one.")
]
_Corruptions = Annotated[int, typer.Option(help="Corrupted versions of each prompt.")]
_Split = Annotated[
    str,
    typer.Option(
        help="Word combinations: all, or the demo's train or heldout ones; unseen: heldout ones in "
        "templates that the demo's text lacks."
    ),
]


# What each command's help says.
_ABOUT = {
    "ioi": 'Indirect object identification: "Then, Mary and John ... John gave a drink to" -> '
    '" Mary".',
    "docstring": "Docstring completion: the third documented argument of a Python function.",
    "pronoun": 'He or she: "Emma is a baker and Paul is a judge ... the judge said that" -> " he".',
    "facts": 'Capitals and countries: "Ian lives in Peru ... the capital of Ian\'s country is" -> '
    '" Lima".',
}


def _command(name: str) -> Callable[..., None]:
    """Return the command that generates pairs of a task."""

    def generate(
        out: _Out,
        model: _Model = "demo",
        count: _Count = 100,
        seed: opt.Seed = 0,
        corruption: _Corruption = None,
        n_corruptions: _Corruptions = 1,
        split: _Split = "all",
    ) -> None:
        from pie_jax.models.loader import load_model_tokenizer
        from pie_jax.tasks import get_task, write_pairs

        task = get_task(name)
        pairs = task.generate(
            count,
            seed=seed,
            tokenizer=load_model_tokenizer(model),
            corruption=corruption or task.default_corruption,
            n_corruptions=n_corruptions,
            split=split,  # type: ignore[arg-type]
        )
        write_pairs(out, pairs)
        Output().say(f"{len(pairs)} pairs: {out}")

    generate.__doc__ = _ABOUT[name]
    return generate


for _name in _ABOUT:
    app.command(_name)(_command(_name))
