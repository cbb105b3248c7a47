"""`pie-jax intervene`: what a model predicts and writes when features have other activations."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from pie_jax.cli import options as opt
from pie_jax.terminal import console, use_compile_cache

if TYPE_CHECKING:
    import pyarrow as pa

    from pie_jax.intervene.changes import Change
    from pie_jax.intervene.results import Intervened
    from pie_jax.models.loader import LanguageModel
    from pie_jax.transcoders.store import Transcoder

# Changed places that are shown.
_MOST = 20


def intervene(
    prompt: Annotated[str, typer.Option(help="The text; BOS is put in front.")],
    change: Annotated[
        list[str],
        typer.Option(
            help="LAYER:FEATURE@POSITION=VALUE, all that are given at once. POSITION: 5, -1 (the "
            "last token), 2:6, 3: (from there on, through what is generated), all. VALUE: a new "
            "activation, x2 (times the one it has), off.",
        ),
    ],
    model: opt.Model = "demo",
    transcoder: opt.Transcoder = "demo",
    dtype: opt.Dtype = "float32",
    freeze: Annotated[
        str,
        typer.Option(
            help="What stays as in the unchanged run: nothing; attention (its patterns); direct "
            "(patterns, norm scales and MLPs, as in an attribution graph)."
        ),
    ] = "nothing",
    top: Annotated[int, typer.Option(help="Likeliest tokens to show, of each run.")] = 8,
    features: Annotated[
        int, typer.Option(help="Features to show whose activations move most.")
    ] = 0,
    generate: Annotated[
        int, typer.Option(help="Also continue the prompt by so many tokens; nothing is frozen.")
    ] = 0,
    temperature: Annotated[float, typer.Option(help="Of what is generated; 0: likeliest.")] = 0.0,
    seed: opt.Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in place of tables.")] = False,
) -> None:
    """Set features of one prompt to other activations, and show what the model makes of it.

    Examples:

    \b
    pie-jax intervene --prompt "Then, Peter and Joe had a long talk. Afterwards Joe said to" \\
        --change 0:17@3=off --change 2:5@-1=x2
    pie-jax intervene --prompt "def sum(left, right):" --change 1:8@2:=4.5 --generate 20
    """
    import pie_jax
    from pie_jax.errors import InputError
    from pie_jax.intervene.changes import parse_change

    changes = [parse_change(text) for text in change]
    if top < 1 or features < 0 or generate < 0:
        raise InputError(
            f"--top {top}, --features {features}, --generate {generate}: at least 1, 0 and 0."
        )
    use_compile_cache()
    language_model = pie_jax.load_model(model, dtype)
    clt = pie_jax.load_transcoder(transcoder, encoders_on_disk=not features)
    found = pie_jax.intervene(
        language_model,
        clt,
        prompt,
        changes,
        freeze=freeze,
        targets=range(language_model.config.vocab_size),
        activations="active" if features else None,
    )
    result: dict[str, Any] = {
        "prompt": [language_model.tokenizer.token(index) for index in found.tokens[0]],
        "freeze": freeze,
        "changed": _places(found.changed),
        "next": _next(language_model, found, top),
    }
    if features:
        result["features"] = _moved(found, features)
    if generate:
        settings = {"new_tokens": generate, "temperature": temperature, "seed": seed}
        result["generated"] = _generated(language_model, clt, prompt, changes, settings)
    if as_json:
        # Characters that the output has none of would be lost otherwise.
        typer.echo(json.dumps(result, indent=2))
    else:
        _show(result)


def _next(model: LanguageModel, found: Intervened, top: int) -> list[dict[str, Any]]:
    """Return the likeliest tokens of both runs, those of the changed one first."""
    import numpy as np

    def probabilities(logits: np.ndarray) -> np.ndarray:
        shares = np.exp(logits.astype(np.float64) - logits.max())
        return shares / shares.sum()

    before, after = probabilities(found.before), probabilities(found.after)
    ids = {int(index) for side in (before, after) for index in np.argsort(-side)[:top]}
    return [
        {
            "token": model.tokenizer.token(index),
            "id": index,
            "before": float(before[index]),
            "after": float(after[index]),
            "logit_change": float(found.target_changes[index]),
        }
        for index in sorted(ids, key=lambda index: -after[index])
    ]


def _moved(found: Intervened, count: int) -> list[dict[str, Any]]:
    assert found.activations is not None
    rows = _places(found.activations)
    return sorted(rows, key=lambda row: -abs(row["after"] - row["before"]))[:count]


def _places(table: pa.Table) -> list[dict[str, Any]]:
    """Return the rows of the only prompt and list."""
    return table.drop_columns(["prompt", "list"]).to_pylist()


def _generated(
    model: LanguageModel,
    transcoder: Transcoder,
    prompt: str,
    changes: list[Change],
    settings: dict[str, Any],
) -> dict[str, str]:
    import pie_jax

    found = pie_jax.generate(model, transcoder, prompt, [[], changes], **settings)
    return dict(zip(("before", "after"), found.texts, strict=True))


def _show(result: dict[str, Any]) -> None:
    numbered = " ".join(f"{at}{token!r}" for at, token in enumerate(result["prompt"]))
    _say(f"tokens: {numbered}")
    changed = result["changed"]
    _features(f"changed activations; frozen: {result['freeze']}", changed[:_MOST])
    if len(changed) > _MOST:
        _say(f"and at {len(changed) - _MOST} more places (--json shows all)")
    if all(row["baseline"] == row["value"] for row in changed):
        _say("These features have these activations there already: nothing was changed.")
    rows = [
        [repr(row["token"]), *(f"{row[name]:.3f}" for name in ("before", "after")),
         f"{row['logit_change']:+.3f}"]
        for row in result["next"]
    ]  # fmt: skip
    _table("the next token's probability, and how far its logit moves against the mean of all",
           ("token", "before", "after", "logit"), rows)  # fmt: skip
    if "features" in result:
        title = "features whose activations move most (of changed ones, their baselines)"
        _features(title, result["features"])
    for name, text in result.get("generated", {}).items():
        _say(f"{name}: {text!r}")


def _features(title: str, rows: list[dict[str, Any]]) -> None:
    cells = [[f"{x:.3f}" if isinstance(x, float) else str(x) for x in row.values()] for row in rows]
    _table(title, tuple(rows[0]) if rows else ("nothing",), cells)


def _table(title: str, names: tuple[str, ...], rows: list[list[str]]) -> None:
    _say(title)
    table = Table(box=box.SIMPLE_HEAD)
    for name in names:
        table.add_column(name, justify="left" if name == "token" else "right")
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table, highlight=False)


def _say(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
