"""The results of a pruning run as Parquet tables, documented in docs/results.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from pie_jax.intervals import Mean, bootstrap_mean
from pie_jax.prune.results.columns import Columns

# No feature index reaches 2^32, so that a layer and a feature make one number.
_SHIFT = np.int64(1) << 32
TABLES = ("scores", "selections", "behaviour", "features")


@dataclass(frozen=True)
class PruneResult:
    """Results of a pruning run: four tables, and a record with skipped pairs and seconds per stage.

    `scores`, `selections`, `behaviour` and `features` are Arrow tables; `record` is run.json.
    """

    scores: pa.Table
    selections: pa.Table
    behaviour: pa.Table
    features: pa.Table
    record: dict[str, Any] = field(default_factory=dict)

    def tables(self) -> dict[str, pa.Table]:
        """Return the tables by name."""
        return {name: getattr(self, name) for name in TABLES}

    def summary(self, measure: str = "kl_last") -> dict[str, dict[int, Mean | None]]:
        """Return the mean of a measure over prompts for each method and budget, with intervals."""
        columns = {
            name: np.asarray(self.behaviour[name].to_numpy(zero_copy_only=False))
            for name in ("method", "budget", measure)
        }
        values = columns[measure].astype(np.float64)
        result: dict[str, dict[int, Mean | None]] = {}
        for method in dict.fromkeys(columns["method"]):
            of_method = columns["method"] == method
            budgets = sorted(set(columns["budget"][of_method]))
            result[str(method)] = {
                int(budget): bootstrap_mean(values[of_method & (columns["budget"] == budget)])
                for budget in budgets
            }
        return result

    def null(self) -> Mean | None:
        """Return the mean KL at the last position with every occurrence removed."""
        prompt = self.behaviour["prompt"].to_numpy()
        _, first = np.unique(prompt, return_index=True)
        return bootstrap_mean(self.behaviour["kl_last_null"].to_numpy()[first])


def assemble(parts: Sequence[dict[str, Columns]], methods: Sequence[str]) -> dict[str, pa.Table]:
    """Put the columns of all batches together, in order of the prompts."""
    merged = {name: _merge([part[name] for part in parts]) for name in parts[0]}
    table = feature_table(merged["scores"], merged["selections"], methods)
    names = pa.array(methods)
    for name in ("selections", "behaviour"):
        merged[name]["method"] = names.take(pa.array(merged[name]["method"]))
    behaviour = merged["behaviour"]
    undefined = np.isnan(behaviour["faithfulness"])
    reason = ["metric_clean equals metric_null" if missing else None for missing in undefined]
    for name in ("faithfulness", "completeness"):
        behaviour[name] = pa.array(behaviour[name], mask=undefined)
    kl_zero = behaviour["kl_zero"]
    behaviour["kl_zero"] = pa.array(kl_zero, mask=np.isnan(kl_zero))
    behaviour["undefined"] = pa.array(reason, pa.string())
    return {**{name: pa.table(columns) for name, columns in merged.items()}, "features": table}


def _merge(parts: list[Columns]) -> dict[str, Any]:
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.argsort(columns["prompt"], kind="stable")
    return {name: column[order] for name, column in columns.items()}


def feature_id(layer: np.ndarray, feature: np.ndarray) -> np.ndarray:
    """Return the ecosystem's Cantor id of (layer, feature)."""
    total = layer.astype(np.int64) + feature
    return total * (total + 1) // 2 + feature


def split_feature_id(identifier: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (layer, feature) of Cantor ids, with integer square roots: exact for any id."""
    ids = [int(value) for value in np.asarray(identifier).ravel()]
    totals = [(math.isqrt(8 * value + 1) - 1) // 2 for value in ids]
    feature = np.array(
        [value - total * (total + 1) // 2 for value, total in zip(ids, totals, strict=True)],
        np.int64,
    )
    return np.array(totals, np.int64) - feature, feature


def feature_keys(layer: np.ndarray, feature: np.ndarray) -> np.ndarray:
    """Return one sortable number for each (layer, feature)."""
    return layer.astype(np.int64) * _SHIFT + feature


def split_keys(key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return layer and feature of `feature_keys`."""
    return key // _SHIFT, key % _SHIFT


def feature_table(scores: Columns, selections: Columns, methods: Sequence[str]) -> pa.Table:
    """Aggregate kept occurrences over prompts: one row per method, budget, layer and feature.

    `prompts_active` counts prompts where the feature occurs at all, `prompts_kept` those where
    it is kept; mean scores are over kept occurrences, `positions` where they were.
    """
    key = feature_keys(selections["layer"], selections["feature"])
    group = np.stack([selections["method"].astype(np.int64), selections["budget"], key])
    unique, inverse = np.unique(group, axis=1, return_inverse=True)
    inverse = inverse.reshape(-1)
    count = np.bincount(inverse, minlength=unique.shape[1])
    score = selections["score"].astype(np.float64)
    layer, feature = split_keys(unique[2])
    return pa.table(
        {
            "method": pa.array(methods).take(pa.array(unique[0])),
            "budget": unique[1].astype(np.int32),
            "layer": layer.astype(np.int32),
            "feature": feature.astype(np.int32),
            "feature_id": feature_id(layer, feature),
            "prompts_active": _prompts_active(scores, unique[2]),
            "prompts_kept": _distinct(inverse, selections["prompt"], unique.shape[1]),
            "mean_abs_score": np.bincount(inverse, np.abs(score)) / count,
            "mean_score": np.bincount(inverse, score) / count,
            "positions": _positions(inverse, selections["position"], unique.shape[1]),
        }
    )


def _prompts_active(scores: Columns, keys: np.ndarray) -> np.ndarray:
    key = feature_keys(scores["layer"], scores["feature"])
    known, inverse = np.unique(key, return_inverse=True)
    active = _distinct(inverse, scores["prompt"], len(known))
    return active[np.searchsorted(known, keys)]


def _distinct(group: np.ndarray, value: np.ndarray, groups: int) -> np.ndarray:
    """Count the distinct values in each group."""
    pairs = np.unique(np.stack([group, value]), axis=1)
    return np.bincount(pairs[0], minlength=groups).astype(np.int32)


def _positions(group: np.ndarray, position: np.ndarray, groups: int) -> pa.Array:
    pairs = np.unique(np.stack([group, position]), axis=1)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(pairs[0], minlength=groups))])
    values = pa.array(pairs[1].astype(np.int32))
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values)
