"""Check of the demo on its tasks: `python -m pie_jax.demo.evaluate` exits with 1 if it fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import typer
from jaxtyping import Array, Float, Int
from rich.console import Console
from rich.table import Table

from pie_jax.demo.circuits import SPREAD_AT, Circuits, markdown, measure_circuits
from pie_jax.demo.corpus import make_documents
from pie_jax.devices.programs import program
from pie_jax.errors import PieError
from pie_jax.models.loader import LanguageModel, load_model
from pie_jax.models.tokenizer import Tokenizer
from pie_jax.models.transformer import Transformer
from pie_jax.tasks import (
    TASKS,
    EncodedPair,
    Pair,
    Split,
    encode_pairs,
    facts,
    get_task,
    pronoun,
)
from pie_jax.terminal import use_compile_cache
from pie_jax.transcoders.loader import load_transcoder
from pie_jax.transcoders.store import Transcoder
from pie_jax.transcoders.training.data import make_windows
from pie_jax.transcoders.training.report import measure

# Guessing among the names or the arguments of the prompt, the two pronouns, all countries.
CHANCE = {"ioi": 1 / 2, "docstring": 1 / 6, "pronoun": 1 / 2, "facts": 1 / len(facts.COUNTRIES)}
_CHANCE_TRIED = {
    "facts of two hops, held-out cities": 1 / len(facts.COUNTRIES),
    "facts of two persons": 1 / 2,
    "pronoun of two persons": 1 / 2,
}
# What each split of a task is, and the least top-1 accuracy in it.
_SPLITS: tuple[tuple[Split, str, float], ...] = (
    ("heldout", "held-out combinations", 0.97),
    ("unseen", "unseen templates", 0.93),
)
# Of which the circuits are to be spread over layers and positions.
_SPREAD, _SPREAD_OVER = ("pronoun", "facts"), 3


@dataclass(frozen=True)
class Figure:
    """A measured value, the least (or most) it must be, and what guessing would give."""

    name: str
    value: float
    at_least: float | None = None
    at_most: float | None = None
    chance: float | None = None

    @property
    def met(self) -> bool:
        """Say whether the value keeps its bounds."""
        above = self.at_least is None or self.value >= self.at_least
        return above and (self.at_most is None or self.value <= self.at_most)


def measure_task(
    transformer: Transformer,
    tokenizer: Tokenizer,
    task: str,
    *,
    pairs: int = 512,
    seed: int = 1,
    split: Split = "heldout",
) -> tuple[float, float]:
    """Return top-1 accuracy and mean logit difference on held-out combinations of a task."""
    drawn = get_task(task).generate(pairs, seed=seed, tokenizer=tokenizer, split=split)
    return measure_pairs(transformer, tokenizer, drawn)


def measure_pairs(
    transformer: Transformer, tokenizer: Tokenizer, drawn: Sequence[Pair]
) -> tuple[float, float]:
    """Return top-1 accuracy and mean logit difference on pairs."""
    encoded, _ = encode_pairs(drawn, tokenizer, needs_target=True)
    tokens, last = _padded(encoded)
    logits = np.asarray(_last_logits(transformer, tokens, last))
    rows = np.arange(len(encoded))
    targets = np.array([pair.target_id for pair in encoded])
    distractors = np.array([pair.distractor_id for pair in encoded])
    top1 = float(np.mean(logits.argmax(axis=-1) == targets))
    return top1, float(np.mean(logits[rows, targets] - logits[rows, distractors]))


def model_figures(
    transformer: Transformer, tokenizer: Tokenizer, *, pairs: int = 512, seed: int = 1
) -> list[Figure]:
    """Measure the language model on its tasks."""
    figures = []
    for task in TASKS:
        for split, words, least in _SPLITS:
            top1, difference = measure_task(
                transformer, tokenizer, task, pairs=pairs, seed=seed, split=split
            )
            name = f"{task}, {words}"
            figures += [
                Figure(f"{name}: top-1", top1, at_least=least, chance=CHANCE[task]),
                Figure(f"{name}: mean logit difference", difference, chance=0.0),
            ]
    return [*figures, *harder_figures(transformer, tokenizer, pairs=pairs, seed=seed)]


def harder_figures(
    transformer: Transformer, tokenizer: Tokenizer, *, pairs: int = 512, seed: int = 1
) -> list[Figure]:
    """Measure what was tried beyond the tasks: two hops, and two persons."""
    figures = []
    for split, words, _ in _SPLITS:
        options: dict[str, Any] = {"seed": seed, "tokenizer": tokenizer, "split": split}
        tried = {
            "facts of two hops, held-out cities": facts.generate(pairs, hops=2, **options),
            "facts of two persons": facts.generate(pairs, persons=2, **options),
            "pronoun of two persons": pronoun.generate(pairs, persons=2, **options),
        }
        for name, drawn in tried.items():
            top1, _ = measure_pairs(transformer, tokenizer, drawn)
            figures.append(Figure(f"{name}, {words}: top-1", top1, chance=_CHANCE_TRIED[name]))
    return figures


def circuit_figures(circuits: Sequence[Circuits]) -> list[Figure]:
    """Return over how many layers and positions circuits are spread."""
    figures = []
    for one in circuits:
        least = _SPREAD_OVER if one.task in _SPREAD else None
        name = f"{one.task}, circuits of {SPREAD_AT}"
        layers, positions = float(one.many_layers), one.many_positions
        figures += [
            Figure(f"{name}: layers of a tenth or more", layers, at_least=least),
            Figure(f"{name}: positions of a tenth or more, median", positions, at_least=least),
        ]
    return figures


def clt_figures(
    model: LanguageModel, transcoder: Transcoder, *, documents: int = 4000, seed: int = 1
) -> list[Figure]:
    """Measure the CLT on documents that neither it nor the model was trained on."""
    # Seeds 0 and 1 of `demo.make` made the training texts.
    # `make_windows` keeps at most a fifth of what it is given.
    texts = make_documents(5 * documents, seed=10_000 + seed)
    windows = make_windows(
        model.tokenizer, texts, window=72, slots=512, steps=1, heldout=documents, seed=seed
    )
    quality = measure(model.transformer, transcoder.module(), windows)
    variance = [
        Figure(f"CLT explained variance, layer {layer}", value, at_least=0.85)
        for layer, value in enumerate(quality.explained_variance)
    ]
    return [
        *variance,
        Figure("CLT mean L0 per layer and token", float(np.mean(quality.l0)), at_most=16.0),
        Figure("CLT dead features", float(np.mean(quality.dead_share)), at_most=0.05),
    ]


def demo_figures(
    model: LanguageModel, transcoder: Transcoder, *, pairs: int = 512, seed: int = 1
) -> list[Figure]:
    """Measure model and CLT."""
    figures = model_figures(model.transformer, model.tokenizer, pairs=pairs, seed=seed)
    return figures + clt_figures(model, transcoder, seed=seed)


def demo_circuits(
    model: LanguageModel, transcoder: Transcoder, *, pairs: int = 64, seed: int = 1
) -> list[Circuits]:
    """Measure the circuits of every task."""
    return [measure_circuits(model, transcoder, task, pairs=pairs, seed=seed) for task in TASKS]


def print_figures(figures: Sequence[Figure], console: Console) -> None:
    """Print figures, their bounds and chance as a table."""
    table = Table("figure", "value", "wanted", "chance", "met")
    for figure in figures:
        wanted = "" if figure.at_least is None else f">= {figure.at_least:g}"
        wanted += "" if figure.at_most is None else f"<= {figure.at_most:g}"
        chance = "" if figure.chance is None else f"{figure.chance:.3g}"
        table.add_row(
            figure.name, f"{figure.value:.4f}", wanted, chance, "yes" if figure.met else "NO"
        )
    console.print(table)


def report(figures: Sequence[Figure], circuits: Sequence[Circuits], console: Console) -> None:
    """Print figures, and the table of circuits as docs/demo.md has it."""
    print_figures(figures, console)
    if circuits:
        # Markdown, whatever the width: it goes into a page.
        console.print(markdown(circuits), markup=False, highlight=False, soft_wrap=True)


def main(
    model: str = "demo",
    transcoder: str = "demo",
    pairs: int = 512,
    circuit_pairs: int = 64,
    seed: int = 1,
) -> None:
    """Measure the demo on held-out combinations and unseen templates, its CLT, and the circuits
    found in it (`--circuit-pairs 0`: not those); exit with 1 when a figure is not met."""
    console = Console()
    use_compile_cache()
    try:
        language_model, clt = load_model(model), load_transcoder(transcoder)
        figures = demo_figures(language_model, clt, pairs=pairs, seed=seed)
        circuits = []
        if circuit_pairs:
            circuits = demo_circuits(language_model, clt, pairs=circuit_pairs, seed=seed)
            figures += circuit_figures(circuits)
    except PieError as error:
        Console(stderr=True).print(f"error: {error}", markup=False)
        raise typer.Exit(error.exit_code) from error
    report(figures, circuits, console)
    raise typer.Exit(0 if all(figure.met for figure in figures) else 1)


@program()
def _last_logits(
    transformer: Transformer, tokens: Int[Array, "B T"], last: Int[Array, " B"]
) -> Float[Array, "B V"]:
    def one(row: Int[Array, " T"], position: Int[Array, ""]) -> Float[Array, " V"]:
        residual = transformer.streams(row).residual[position]
        return transformer.unembed(residual[None])[0]

    return jax.vmap(one)(tokens, last)


def _padded(encoded: Sequence[EncodedPair]) -> tuple[Array, Array]:
    # Padding on the right is invisible to the positions before it.
    lengths = np.array([len(pair.clean) for pair in encoded])
    tokens = np.zeros((len(encoded), lengths.max()), np.int32)
    for row, pair in enumerate(encoded):
        tokens[row, : lengths[row]] = pair.clean
    return jnp.asarray(tokens), jnp.asarray(lengths - 1)


if __name__ == "__main__":
    typer.run(main)
