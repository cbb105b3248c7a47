"""Circuits of a whole task: K unique (layer, feature), found on some pairs and judged on others.

What interpretation costs is unique features, so K counts those; a kept feature is kept wherever it
occurs. A method's task-level score of a feature is the sum over pairs of its scores there: of all
occurrences for a method that scores, of its kept set at K for one that chooses sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pie_jax.errors import InputError
from pie_jax.models.loader import LanguageModel
from pie_jax.prune.batches import batches
from pie_jax.prune.corruptions import found_and_judged
from pie_jax.prune.inputs import PruneInputs
from pie_jax.prune.methods import METHODS, run_method
from pie_jax.prune.metrics import METRICS
from pie_jax.prune.options import PruneOptions
from pie_jax.prune.run import merged_options
from pie_jax.prune.selection import NOBODY
from pie_jax.prune.statistics import Mean, bootstrap_mean
from pie_jax.prune.step import Pruner
from pie_jax.tasks import Pair, encode_pairs
from pie_jax.transcoders.stored import Transcoder

_SHIFT = np.int64(1) << 32
_Sums = dict[int, float]


class TaskCircuit(NamedTuple):
    """A task's circuit: KL in nats on the pairs it was found on (`seen`) and on the others, and
    `union`, how many unique features the method's prompt-level circuits of K hold together."""

    method: str
    budget: int
    features: list[tuple[int, int]]
    seen: Mean | None
    unseen: Mean | None
    union: int


def task_circuits(
    model: LanguageModel,
    transcoder: Transcoder,
    pairs: Sequence[Pair],
    options: PruneOptions | None = None,
    **settings: Any,
) -> list[TaskCircuit]:
    """Return a circuit for every method and budget, found on every other pair.

    `settings` are fields of `PruneOptions`. Raises `InputError` with fewer than two pairs.
    """
    options = merged_options(options, settings)
    if len(pairs) < 2:
        raise InputError(
            "task_circuits: give at least 2 pairs, one to find on and one to judge on."
        )
    needs_target = METRICS[options.metric].needs_target
    encoded, _ = encode_pairs(
        pairs, model.tokenizer, needs_target=needs_target, on_bad_pair=options.on_bad_pair
    )
    pruner = Pruner(model, transcoder, options)
    sums: dict[tuple[str, int], _Sums] = {
        (m, k): {} for m in options.methods for k in options.budgets
    }
    unions: dict[tuple[str, int], set[int]] = {case: set() for case in sums}
    halves = [encoded[0::2], encoded[1::2]]
    for batch in batches(halves[0], options.batch_size):
        found, _ = found_and_judged(pruner.prepare(batch))
        for method in options.methods:
            _add(found, method, options.budgets, batch.real, sums, unions)
    circuits = {case: _largest(values, case[1]) for case, values in sums.items()}
    kl: list[dict[tuple[str, int], list[float]]] = []
    for half in halves:
        each: dict[tuple[str, int], list[float]] = {case: [] for case in circuits}
        for batch in batches(half, options.batch_size):
            _, judged = found_and_judged(pruner.prepare(batch))
            for case, features in circuits.items():
                each[case] += task_kl(judged, features)[: batch.real].tolist()
        kl.append(each)
    return [
        TaskCircuit(
            *case,
            [(int(key // _SHIFT), int(key % _SHIFT)) for key in features],
            bootstrap_mean(np.array(kl[0][case])),
            bootstrap_mean(np.array(kl[1][case])),
            len(unions[case]),
        )
        for case, features in circuits.items()
    ]


def feature_keys(inputs: PruneInputs) -> np.ndarray:
    """Return one sortable number for each occurrence's (layer, feature), [B, N]."""
    return inputs.occurrences.layer.astype(np.int64) * _SHIFT + inputs.occurrences.feature


def task_kl(inputs: PruneInputs, features: np.ndarray) -> np.ndarray:
    """Return each prompt's KL with only these features kept, wherever they occur, [B]."""
    held = np.isin(feature_keys(inputs), features) & inputs.occurrences.valid
    # As wide as there are occurrences: one shape for any circuit.
    kept = np.where(held, np.arange(held.shape[1], dtype=np.int32), NOBODY)
    return np.asarray(inputs.behaviour(kept[:, None])[0].kl_last)[:, 0]


def _add(
    inputs: PruneInputs,
    name: str,
    budgets: tuple[int, ...],
    real: int,
    sums: dict[tuple[str, int], _Sums],
    unions: dict[tuple[str, int], set[int]],
) -> None:
    method, keys = METHODS[name], feature_keys(inputs)
    scores = None if method.scores is None else method.scores(inputs)
    for budget, selection in zip(budgets, run_method(method, inputs, budgets), strict=True):
        case = (name, budget)
        for b in range(real):
            use = selection.kept[b] != NOBODY
            kept = keys[b, selection.kept[b][use]]
            unions[case] |= set(kept.tolist())
            worth = np.abs(selection.score[b][use])
            if scores is not None:
                count = inputs.occurrences.count[b]
                kept, worth = keys[b, :count], np.abs(scores[b, :count])
            for key, value in zip(kept.tolist(), worth.tolist(), strict=True):
                sums[case][key] = sums[case].get(key, 0.0) + value


def _largest(sums: _Sums, count: int) -> np.ndarray:
    ranked = sorted(sums, key=lambda key: (-sums[key], key))
    return np.array(ranked[:count], np.int64)
