"""Check of the demo on its tasks: `python -m pie_jax.demo.evaluate` exits with 1 if it fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import typer
from jaxtyping import Array, Float, Int
from rich.console import Console
from rich.table import Table

from pie_jax.demo.corpus import make_documents
from pie_jax.devices.programs import program
from pie_jax.errors import PieError
from pie_jax.models.loader import LanguageModel, load_model
from pie_jax.models.tokenizer import Tokenizer
from pie_jax.models.transformer import Transformer
from pie_jax.tasks import EncodedPair, Split, encode_pairs, get_task
from pie_jax.transcoders.loader import load_transcoder
from pie_jax.transcoders.store import Transcoder
from pie_jax.transcoders.training.data import make_windows
from pie_jax.transcoders.training.report import measure

# Guessing among the names, or the arguments, that stand in the prompt.
CHANCE = {"ioi": 1 / 2, "docstring": 1 / 6}


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
    ioi, ioi_difference = measure_task(transformer, tokenizer, "ioi", pairs=pairs, seed=seed)
    doc, doc_difference = measure_task(transformer, tokenizer, "docstring", pairs=pairs, seed=seed)
    return [
        Figure("ioi top-1", ioi, at_least=0.97, chance=CHANCE["ioi"]),
        Figure("ioi mean logit difference", ioi_difference, at_least=4.0, chance=0.0),
        Figure("docstring top-1", doc, at_least=0.90, chance=CHANCE["docstring"]),
        Figure("docstring mean logit difference", doc_difference, chance=0.0),
    ]


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
        Figure("CLT mean L0 per layer and token", float(np.mean(quality.l0)), at_most=15.0),
        Figure("CLT dead features", float(np.mean(quality.dead_share)), at_most=0.10),
    ]


def demo_figures(
    model: LanguageModel, transcoder: Transcoder, *, pairs: int = 512, seed: int = 1
) -> list[Figure]:
    """Measure model and CLT."""
    figures = model_figures(model.transformer, model.tokenizer, pairs=pairs, seed=seed)
    return figures + clt_figures(model, transcoder, seed=seed)


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


def main(model: str = "demo", transcoder: str = "demo", pairs: int = 512, seed: int = 1) -> None:
    """Measure the demo on held-out combinations; exit with 1 when a figure is not met."""
    console = Console()
    try:
        figures = demo_figures(
            load_model(model), load_transcoder(transcoder), pairs=pairs, seed=seed
        )
    except PieError as error:
        Console(stderr=True).print(f"error: {error}", markup=False)
        raise typer.Exit(error.exit_code) from error
    print_figures(figures, console)
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
