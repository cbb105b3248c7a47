"""How circuits of the demo look: KL by size, spread over layers and positions, compression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pie_jax.models.loader import LanguageModel
from pie_jax.prune.results.compare import occurrence_counts
from pie_jax.prune.results.measures import CircuitSize, by_prompt, size_for
from pie_jax.prune.results.tables import PruneResult
from pie_jax.prune.run import prune
from pie_jax.tasks import Split, get_task
from pie_jax.transcoders.store import Transcoder

METHODS = ("auto", "fap-synergy", "fap", "random")
BUDGETS = (5, 10, 20, 40, 80, 160, 320)
# Of a random active set, whose KL falls only where it holds a good part of everything.
RANDOM_BUDGETS = (640, 960, 1280, 1600, 1920, 2080, 2240, 2400, 2560, 2880, 3200, 3520)
SPREAD_AT = 40
_SHARE = 0.10
_FEW = 0.05  # of the KL of nothing kept


@dataclass(frozen=True)
class Circuits:
    """What circuits of a task are like.

    `nothing`: mean KL with nothing kept; `kl`: by method and budget. `layers`: share of
    the kept occurrences in each layer, over all prompts; `positions`: of each prompt the number of
    positions that hold a tenth or more of its circuit. `enough`: the least K with a KL of 5% of
    nothing kept. `equal_random`: by budget of `auto` the random active occurrences of equal KL.
    """

    task: str
    tokens: float
    occurrences: float
    nothing: float
    kl: dict[str, dict[int, float]]
    layers: tuple[float, ...]
    positions: tuple[int, ...]
    enough: CircuitSize | None
    equal_random: dict[int, CircuitSize | None]

    @property
    def many_layers(self) -> int:
        """Return how many layers hold a tenth or more of the kept occurrences."""
        return sum(share >= _SHARE for share in self.layers)

    @property
    def many_positions(self) -> float:
        """Return the median over prompts of how many positions hold a tenth or more."""
        return float(np.median(self.positions))


def measure_circuits(
    model: LanguageModel,
    transcoder: Transcoder,
    task: str,
    *,
    pairs: int = 64,
    seed: int = 1,
    split: Split = "heldout",
) -> Circuits:
    """Return what circuits of held-out pairs of a task are like."""
    drawn = get_task(task).generate(pairs, seed=seed, tokenizer=model.tokenizer, split=split)
    result = prune(model, transcoder, drawn, methods=METHODS, budgets=BUDGETS)
    counts = occurrence_counts(result)
    larger = tuple(size for size in RANDOM_BUDGETS if size < counts.min())
    kl = {method: _means(result, method) for method in METHODS}
    random = dict(kl["random"])
    if larger:
        grown = prune(model, transcoder, drawn, methods=("random",), budgets=larger)
        random |= _means(grown, "random")
    nothing = result.null()
    assert nothing is not None  # KL is never undefined
    layers, positions = spread(result, "auto", SPREAD_AT, transcoder.config.num_layers)
    lengths = [len(model.tokenizer.encode(pair.clean)) for pair in drawn]
    return Circuits(
        task=task,
        tokens=float(np.mean(lengths)),
        occurrences=float(np.mean(counts)),
        nothing=nothing.mean,
        kl=kl,
        layers=layers,
        positions=positions,
        enough=_size(kl["auto"], _FEW * nothing.mean),
        equal_random={budget: _size(random, level) for budget, level in kl["auto"].items()},
    )


def spread(
    result: PruneResult, method: str, budget: int, layers: int
) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Return the share of kept occurrences in each layer, over all prompts, and of each prompt how
    many positions hold a tenth or more of what it keeps."""
    table = result.selections
    names = np.asarray(table["method"].to_pylist())
    use = (names == method) & (table["budget"].to_numpy() == budget)
    prompt, layer, position = (
        table[name].to_numpy()[use] for name in ("prompt", "layer", "position")
    )
    shares = np.bincount(layer, minlength=layers) / len(layer)
    wide = []
    for one in np.unique(prompt):
        _, counts = np.unique(position[prompt == one], return_counts=True)
        wide.append(int(np.sum(counts >= _SHARE * counts.sum())))
    return tuple(float(share) for share in shares), tuple(wide)


def markdown(found: Sequence[Circuits]) -> str:
    """Return the tables of docs/demo.md."""
    lines = ["| | " + " | ".join(one.task for one in found) + " |", "|---" * (len(found) + 1) + "|"]

    def row(name: str, cells: Sequence[str]) -> None:
        lines.append(f"| {name} | {' | '.join(cells)} |")

    row("tokens a prompt", [f"{one.tokens:.1f}" for one in found])
    row("occurrences a prompt", [f"{one.occurrences:,.0f}" for one in found])
    row("KL of nothing kept", [f"{one.nothing:.2f}" for one in found])
    for method in METHODS:
        for budget in (10, 20, 40, 80):
            row(f"{method}, K = {budget}", [f"{one.kl[method][budget]:.3f}" for one in found])
    row("K at 5% of nothing kept", [_words(one.enough) for one in found])
    for budget in (20, SPREAD_AT, 80):
        cells = [_words(one.equal_random[budget], budget) for one in found]
        row(f"random active occurrences of the KL of K = {budget}", cells)
    cells = [" ".join(f"{share:.0%}" for share in one.layers) for one in found]
    row(f"share of layers 0, 1, ... at K = {SPREAD_AT}", cells)
    row(f"layers of {_SHARE:.0%} or more", [str(one.many_layers) for one in found])
    row(f"positions of {_SHARE:.0%} or more, median", [f"{one.many_positions:g}" for one in found])
    cells = [f"{np.mean(np.array(one.positions) >= 3):.0%}" for one in found]
    row("prompts with three such positions or more", cells)
    return "\n".join(lines)


def _means(result: PruneResult, method: str) -> dict[int, float]:
    budgets, values = by_prompt(result, method, "kl_last")
    return {int(k): float(v) for k, v in zip(budgets, values.mean(axis=0), strict=True)}


def _size(kl: dict[int, float], level: float) -> CircuitSize | None:
    budgets = np.array(sorted(kl))
    return size_for(budgets, np.array([kl[int(budget)] for budget in budgets]), level)


def _words(size: CircuitSize | None, of: int | None = None) -> str:
    if size is None:
        return "–"
    times = "" if of is None else f" ({size.bound}{size.value / of:.0f} times)"
    return f"{size.bound}{size.value:,.0f}{times}"
