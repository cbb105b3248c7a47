"""Cases of `benchmarks.circuits`: models and pairs in which circuits are searched for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pie_jax
from pie_jax.errors import InputError
from pie_jax.models.loader import LanguageModel
from pie_jax.prune.results.tables import PruneResult
from pie_jax.tasks import Pair, get_task
from pie_jax.transcoders.store import Transcoder

BASELINE = "fap-synergy"
METHODS = (
    "auto,learned,staged,integrated-gradients,fap-full,fap-hvp,fap,fap-synergy,relp,factp,"
    "activation-magnitude,random"
)
# It takes tens of thousands of passes a prompt.
_ACDC_PAIRS, _ACDC_MOST = 8, 40
_REFERENCE = Path(__file__).parents[2] / "tests" / "golden" / "reference"


@dataclass(frozen=True)
class Sizes:
    """What is asked of the cases: pairs a task, methods, budgets, and how many versions of a prompt
    are found on (and as many judged on)."""

    count: int
    methods: tuple[str, ...]
    budgets: tuple[int, ...]
    corruptions: int
    seed: int


@dataclass(frozen=True)
class Case:
    """Pairs for a model and its transcoder, and the options of its runs."""

    name: str
    title: str
    model: LanguageModel
    transcoder: Transcoder
    pairs: Sequence[Pair]
    settings: dict[str, Any] = field(default_factory=dict)

    def prune(self, **rest: Any) -> PruneResult:
        """Return a run of the case; `rest` are arguments of `pie_jax.prune`."""
        return pie_jax.prune(self.model, self.transcoder, self.pairs, **{**self.settings, **rest})

    @property
    def unseen(self) -> bool:
        """Tell whether its circuits are judged on corruptions that no method saw."""
        return self.settings.get("judge_corruptions") == "unseen"

    def swapped(self) -> Case:
        """Return the case with the corruptions found on and those judged on exchanged."""

        def other(pair: Pair) -> Pair:
            half = len(pair.corrupted) // 2
            return replace(pair, corrupted=pair.corrupted[half:] + pair.corrupted[:half])

        return replace(self, pairs=[other(pair) for pair in self.pairs])


def cases(sizes: Sizes, only: str | None = None) -> Iterator[Case]:
    """Yield the cases, or the one that is named. Raises `InputError` for a name that is none."""
    makers: dict[str, Callable[[Sizes], Case]] = {
        "ioi": lambda sizes: _task("ioi", sizes),
        "docstring": lambda sizes: _task("docstring", sizes),
        "ioi-unseen": _unseen,
        "reference-llama": lambda sizes: _reference("llama", sizes),
        "reference-gemma2": lambda sizes: _reference("gemma2", sizes),
        "ioi-acdc": _acdc,
    }
    if only is not None and only not in makers:
        raise InputError(f"--only: `{only}` is no case; use {', '.join(makers)}.")
    for name, make in makers.items():
        if only in (None, name):
            yield make(sizes)


def _options(sizes: Sizes) -> dict[str, Any]:
    return {
        "methods": sizes.methods,
        "budgets": sizes.budgets,
        "seed": sizes.seed,
        "judge_zero_features": True,
    }


def _task(task: str, sizes: Sizes, versions: int = 1) -> Case:
    model, transcoder = pie_jax.load_model(), pie_jax.load_transcoder()
    pairs = get_task(task).generate(
        sizes.count,
        seed=sizes.seed,
        tokenizer=model.tokenizer,
        n_corruptions=versions,
        split="heldout",
    )
    return Case(task, task, model, transcoder, pairs, _options(sizes))


def _unseen(sizes: Sizes) -> Case:
    half = sizes.corruptions
    return replace(
        _task("ioi", sizes, 2 * half),
        name="ioi-unseen",
        title=f"ioi, found on {half} corruptions, judged on {half} unseen",
        settings={**_options(sizes), "judge_corruptions": "unseen"},
    )


def _acdc(sizes: Sizes) -> Case:
    case = _task("ioi", sizes)
    changed = {
        "methods": tuple(dict.fromkeys(("acdc", *sizes.methods))),
        "budgets": tuple(budget for budget in sizes.budgets if budget <= _ACDC_MOST),
    }
    return replace(
        case,
        name="ioi-acdc",
        title=f"ioi, the first {_ACDC_PAIRS} pairs, with acdc",
        pairs=case.pairs[:_ACDC_PAIRS],
        settings={**case.settings, **changed},
    )


def _reference(family: str, sizes: Sizes) -> Case:
    folder = _REFERENCE / family
    model = pie_jax.load_model(folder / "model")
    transcoder = pie_jax.load_transcoder(folder / "clt")
    pairs = pie_jax.load_pairs(folder / "prompts.jsonl")[: sizes.count]
    name = f"reference-{family}"
    return Case(name, f"the {family} of the tests", model, transcoder, pairs, _options(sizes))
