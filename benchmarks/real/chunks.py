"""Pruning a few pairs at a time: what each chunk measured is a file, and is not measured again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import pie_jax
from benchmarks.parts.machine import write_json
from pie_jax.models.loader import LanguageModel
from pie_jax.prune.options import SearchOptions
from pie_jax.prune.results.compare import occurrence_counts
from pie_jax.prune.results.measures import by_prompt, shares_against
from pie_jax.prune.results.tables import PruneResult
from pie_jax.tasks import Pair
from pie_jax.transcoders.store import Transcoder

TASKS = ("ioi", "docstring")
SIZES = (1, 2, 5, 10, 25, 50, 100, 200, 400, 800, 1600, 3200)
# From one size of random sets to the next, and up to which.
RANDOM_SIZES = tuple(round(1000 * 1.3**step) for step in range(11))


@dataclass(frozen=True)
class Group:
    """Methods that are run together on `size` pairs at a time, up to `pairs` of them."""

    name: str
    methods: tuple[str, ...]
    budgets: tuple[int, ...] = SIZES
    size: int = 4
    pairs: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)


CHEAP = Group("cheap", ("fap", "relp", "activation-magnitude", "integrated-gradients", "random"))
GROWN = Group("random", ("random",), RANDOM_SIZES)
AUTO = Group("auto", ("auto",))
# Hundreds of passes a prompt and budget.
SYNERGY = Group("synergy", ("fap-synergy",), (10, 25, 50, 100, 200, 400))
# One budget alone, for what it costs; the first chunk compiles.
ONCE = Group("synergy at 100", ("fap-synergy",), (100,), pairs=12)
OTHERS = Group("others", ("staged", "learned", "factp"), (10, 25, 50, 100, 200), size=2, pairs=2)
_UNSEEN: dict[str, Any] = {"judge_corruptions": "unseen"}
_UNSEEN_SIZES = (25, 50, 100, 200, 400)
UNSEEN = Group("unseen", ("fap", "fap-synergy"), _UNSEEN_SIZES, settings=_UNSEEN)
UNSEEN_AUTO = Group("unseen auto", ("auto",), _UNSEEN_SIZES, settings=_UNSEEN)
# Found on four given versions and on more that are made; the pairs of a chunk give the words.
MORE = 8
UNSEEN_MORE = Group(
    "unseen more", ("auto",), _UNSEEN_SIZES, size=8, settings=_UNSEEN | {"more_corruptions": MORE}
)
# To choose the complement's weight: on other pairs than those of the tables.
WEIGHTS = tuple(
    Group(
        f"weight {weight:g}",
        ("auto",),
        (10, *_UNSEEN_SIZES),
        pairs=8,
        settings={"search": SearchOptions(complement=weight)},
    )
    for weight in (0.0, 0.03, 0.1, 0.3, 1.0)
)
ALL_UNSEEN = (UNSEEN, UNSEEN_AUTO, UNSEEN_MORE)
# What takes minutes a prompt, or several runs of it, on IOI alone.
IOI_ALONE = (*ALL_UNSEEN, OTHERS)
MEASURES = {"completeness": "completeness", "faithfulness": "faithfulness", "kl": "kl_last"}


def chunk_files(folder: Path, task: str, group: Group, pairs: int) -> Iterator[tuple[Path, slice]]:
    """Yield the file of every chunk of a task's pairs and which pairs it holds."""
    count = min(pairs, group.pairs or pairs)
    for start in range(0, count, group.size):
        stop = min(start + group.size, count)
        yield folder / task / group.name / f"{start:03d}-{stop:03d}.json", slice(start, stop)


def measure_chunk(
    model: LanguageModel, transcoder: Transcoder, pairs: Sequence[Pair], group: Group, seed: int
) -> dict[str, Any]:
    """Prune pairs and return measures by method and budget, a number a prompt, and what it took.

    FAP is run beside the methods, as its scores tell what pulls against the target.
    """
    began, cpu = time.perf_counter(), time.process_time()
    result = pie_jax.prune(
        model,
        transcoder,
        pairs,
        methods=tuple(dict.fromkeys(("fap", *group.methods))),
        budgets=group.budgets,
        batch_size=group.size,
        seed=seed,
        **group.settings,
    )
    cpu = time.process_time() - cpu
    return {
        **{
            name: {method: _columns(*by_prompt(result, method, of)) for method in group.methods}
            for name, of in MEASURES.items()
        },
        "against": {m: _columns(*shares_against(result, m)) for m in group.methods},
        "null": _null(result),
        "occurrences": occurrence_counts(result).tolist(),
        "seconds": {
            method: result.record["seconds"].get(f"method {method}") for method in group.methods
        },
        "cpu_seconds": cpu,
        "all_seconds": time.perf_counter() - began,
    }


def run_chunks(
    files: Sequence[tuple[Path, Callable[[], dict[str, Any]]]],
    deadline: float,
    say: Callable[[str], None],
) -> int:
    """Measure every chunk that has no file until the deadline (`time.monotonic`); return how many
    are left."""
    missing = [(path, measure) for path, measure in files if not path.exists()]
    for done, (path, measure) in enumerate(missing):
        if time.monotonic() >= deadline:
            return len(missing) - done
        found = measure()
        write_json(path, found)
        say(f"{'/'.join(path.parts[-3:])}: {found['all_seconds']:.0f} s")
    return 0


def joined(folder: Path, task: str, group: Group) -> dict[str, Any] | None:
    """Return the chunks that a group has, one after another, by prompt; None without any.

    Seconds are the least of any chunk a prompt: those of a chunk that compiles nothing. CPU seconds
    are of all that a chunk does.
    """
    chunks = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((folder / task / group.name).glob("*.json"))
    ]
    if not chunks:
        return None
    return {
        **{name: _joined(chunks, name) for name in (*MEASURES, "against")},
        "null": np.concatenate([one["null"] for one in chunks]),
        "occurrences": np.concatenate([one["occurrences"] for one in chunks]),
        "cpu_seconds": min(one["cpu_seconds"] / len(one["null"]) for one in chunks),
        "seconds": {
            method: min(
                one["seconds"][method] / len(one["null"])
                for one in chunks
                if one["seconds"][method] is not None
            )
            for method in chunks[0]["seconds"]
        },
    }


def _joined(chunks: Sequence[dict[str, Any]], name: str) -> dict[str, dict[int, np.ndarray]]:
    return {
        method: {
            int(budget): np.concatenate([one[name][method][budget] for one in chunks])
            for budget in row
        }
        for method, row in chunks[0][name].items()
    }


def _columns(budgets: np.ndarray, values: np.ndarray) -> dict[str, list[float]]:
    return {str(budget): values[:, i].tolist() for i, budget in enumerate(budgets.tolist())}


def _null(result: PruneResult) -> list[float]:
    table = result.behaviour
    first = dict(zip(table["prompt"].to_pylist(), table["kl_last_null"].to_pylist(), strict=True))
    return [first[prompt] for prompt in sorted(first)]
