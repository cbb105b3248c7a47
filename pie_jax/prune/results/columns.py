"""The columns of a batch's results, as arrays of equal length.

Shapes: B batch, N occurrences, S kept sets, K budget.
"""

from __future__ import annotations

import numpy as np

from pie_jax.prune.engine.corruptions import rest_at_zero
from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.engine.selection import PADDING, Selection

# A table as columns of equal length.
Columns = dict[str, np.ndarray]
_UNDEFINED_BELOW = 1e-10


def score_columns(inputs: BatchEvaluator, scores: Columns, real: int) -> Columns:
    """Return the table of scores: one row for each occurrence of the `real` first prompts."""
    occurrences = inputs.occurrences
    use = occurrences.valid[:real]
    prompt = np.broadcast_to(inputs.rows[:real, None], use.shape)
    columns = {
        "prompt": prompt,
        "layer": occurrences.layer,
        "position": occurrences.position,
        "feature": occurrences.feature,
        "activation_clean": occurrences.clean,
        "activation_corrupted": occurrences.corrupted.mean(axis=1),
        **{name: score.astype(np.float32) for name, score in scores.items()},
    }
    return {name: column[:real][use] for name, column in columns.items()}


def selection_columns(
    inputs: BatchEvaluator, selections: list[list[Selection]], real: int
) -> Columns:
    """Return the table of kept occurrences: `selections` by method and budget."""
    occurrences = inputs.occurrences
    parts: list[Columns] = []
    for index, method in enumerate(selections):
        for budget, selection in zip(inputs.options.budgets, method, strict=True):
            kept = selection.kept[:real]
            use = kept != PADDING
            prompt, rank = np.nonzero(use)
            at = (prompt, kept[use])
            parts.append(
                {
                    "prompt": inputs.rows[prompt],
                    "method": np.full(len(rank), index, np.int16),
                    "budget": np.full(len(rank), budget, np.int32),
                    "layer": occurrences.layer[at],
                    "position": occurrences.position[at],
                    "feature": occurrences.feature[at],
                    "rank": rank.astype(np.int32) + 1,
                    "score": selection.score[:real][use],
                }
            )
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def behaviour_columns(
    inputs: BatchEvaluator, selections: list[list[Selection]], real: int
) -> Columns:
    """Return the table of KL and metrics of kept sets, by prompt, method and budget."""
    budgets = inputs.options.budgets
    widest = max(budgets)
    flat = [selection.kept for method in selections for selection in method]
    kept = np.stack(
        [np.pad(k, ((0, 0), (0, widest - k.shape[1])), constant_values=PADDING) for k in flat],
        axis=1,
    )
    circuit, complement = inputs.behaviour(kept)
    clean, null = inputs.ends
    shape = (real, len(selections), len(budgets))
    change = clean - null.metric
    defined = np.abs(change) >= _UNDEFINED_BELOW
    divisor = np.where(defined, change, np.nan)[:, None]

    def share(metric: np.ndarray) -> np.ndarray:
        return (metric - null.metric[:, None]) / divisor

    def each(x: np.ndarray) -> np.ndarray:
        return np.broadcast_to(x[:real, None, None], shape)

    columns = {
        "prompt": each(inputs.rows),
        "method": np.broadcast_to(np.arange(shape[1], dtype=np.int16)[:, None], shape),
        "budget": np.broadcast_to(np.array(budgets, np.int32), shape),
        "kl_last": circuit.kl_last[:real],
        "kl_mean": circuit.kl_mean[:real],
        "top1_changed": circuit.top1_changed[:real],
        "metric_clean": each(clean),
        "metric_circuit": circuit.metric[:real],
        "metric_null": each(null.metric),
        "metric_complement": complement[:real],
        "faithfulness": share(circuit.metric)[:real],
        "completeness": share(complement)[:real],
        "kl_last_null": each(null.kl_last),
        "kl_zero": _kl_zero(inputs, kept, circuit.kl_last)[:real],
    }
    return {name: np.asarray(column).reshape(-1) for name, column in columns.items()}


def _kl_zero(inputs: BatchEvaluator, kept: np.ndarray, kl_last: np.ndarray) -> np.ndarray:
    """Return the KL with what is not kept at zero, [B, S]; NaN where it is not asked for."""
    if not inputs.options.judge_zero_features:
        return np.full_like(kl_last, np.nan)
    if inputs.options.corruption == "zero-features":
        return kl_last
    return rest_at_zero(inputs).kl_last(kept)
