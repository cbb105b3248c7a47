"""The results of a task-level run as Parquet tables, documented in docs/results.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pie_jax.intervals import Mean, bootstrap_mean
from pie_jax.prune.results.columns import Columns
from pie_jax.prune.results.resumable_folder import read_tables
from pie_jax.prune.results.tables import feature_id, feature_keys

SCOPE = "task"
TABLES = ("task", "task_behaviour")
# KL is a difference of float32 sums: what is smaller is rounding.
_ROUNDING = 1e-6


class TaskSummary(NamedTuple):
    """One method's circuits at one budget: mean KL in nats of its task circuit of `features` on the
    pairs it was found on (`seen`) and on the others, and of its prompt-level circuits on the seen
    pairs (`prompts`), which hold `union` unique features together."""

    method: str
    budget: int
    features: int
    seen: Mean | None
    unseen: Mean | None
    union: int
    prompts: Mean | None

    @property
    def ratio(self) -> float | None:
        """Return KL unseen over KL seen; None if KL seen is only rounding error."""
        if self.seen is None or self.unseen is None or self.seen.mean <= _ROUNDING:
            return None
        return self.unseen.mean / self.seen.mean


@dataclass(frozen=True)
class TaskResult:
    """Results of a task-level run: `task` and `task_behaviour` are Arrow tables, `record` is
    run.json."""

    task: pa.Table
    task_behaviour: pa.Table
    record: dict[str, Any] = field(default_factory=dict)

    def tables(self) -> dict[str, pa.Table]:
        """Return the tables by name."""
        return {name: getattr(self, name) for name in TABLES}

    def features(self, method: str, budget: int) -> list[tuple[int, int]]:
        """Return the (layer, feature) of a circuit, best first."""
        rows = zip(
            *(self.task[name].to_pylist() for name in ("method", "budget", "layer", "feature")),
            strict=True,
        )
        return [(layer, feature) for m, k, layer, feature in rows if (m, k) == (method, budget)]

    def summary(self) -> list[TaskSummary]:
        """Return a row for every method and budget."""
        table = {
            name: self.task_behaviour[name].to_numpy(zero_copy_only=False)
            for name in self.task_behaviour.schema.names
        }
        out = []
        for method in dict.fromkeys(table["method"].tolist()):
            for budget in dict.fromkeys(table["budget"].tolist()):
                use = (table["method"] == method) & (table["budget"] == budget)
                rows = {name: column[use] for name, column in table.items()}
                seen = rows["seen"].astype(bool)
                out.append(
                    TaskSummary(
                        method,
                        budget,
                        len(self.features(method, budget)),
                        bootstrap_mean(rows["kl_last"][seen]),
                        bootstrap_mean(rows["kl_last"][~seen]),
                        int(rows["features_new"][seen].sum()),
                        bootstrap_mean(rows["kl_last_prompt"][seen]),
                    )
                )
        return out

    def null(self) -> tuple[Mean | None, Mean | None]:
        """Return the mean KL with every occurrence removed, on the seen pairs and the others."""
        prompt, seen, kl = (
            self.task_behaviour[name].to_numpy(zero_copy_only=False)
            for name in ("prompt", "seen", "kl_last_null")
        )
        _, first = np.unique(prompt, return_index=True)
        one, seen = kl[first], seen[first].astype(bool)
        return bootstrap_mean(one[seen]), bootstrap_mean(one[~seen])


def load_task_result(path: str | Path) -> TaskResult:
    """Read a complete results folder of `pie-jax prune --scope task`.

    Raises `InputError` where it is none, `PieError` where the run is unfinished.
    """
    tables, record = read_tables(Path(path), TABLES, SCOPE)
    return TaskResult(**tables, record=record)


def assemble(
    alone: Sequence[dict[str, Columns]],
    circuits: Sequence[dict[str, Columns]],
    judged: Sequence[dict[str, Columns]],
    methods: Sequence[str],
) -> dict[str, pa.Table]:
    """Put all parts together: what prompts alone gave, the circuits, and their KL."""
    task = _merged([part["task"] for part in circuits])
    task["feature_id"] = feature_id(task["layer"], task["feature"])
    behaviour = _merged([part["task_behaviour"] for part in judged])
    order = np.lexsort([behaviour[name] for name in ("prompt", "budget", "method")])
    behaviour = {name: column[order] for name, column in behaviour.items()}
    behaviour |= _of_prompts(behaviour, alone)
    tables = {"task": task, "task_behaviour": behaviour}
    for table in tables.values():
        table["method"] = pa.array(methods).take(pa.array(table["method"]))
    return {name: pa.table(columns) for name, columns in tables.items()}


def _of_prompts(behaviour: Columns, alone: Sequence[dict[str, Columns]]) -> dict[str, Any]:
    """Return the columns of seen pairs' own circuits, null for the others."""
    kl = _by_case(_merged([part["behaviour"] for part in alone]), "kl_last")
    new = _new_features(_merged([part["selections"] for part in alone]))
    cases = list(
        zip(*(behaviour[name].tolist() for name in ("method", "budget", "prompt")), strict=True)
    )
    return {
        "kl_last_prompt": pa.array([kl.get(case) for case in cases], pa.float32()),
        "features_new": pa.array(
            [new.get(case, 0) if case in kl else None for case in cases], pa.int32()
        ),
    }


def _by_case(table: Columns, name: str) -> dict[tuple[int, ...], Any]:
    columns = (table[column].tolist() for column in ("method", "budget", "prompt", name))
    return {tuple(case): value for *case, value in zip(*columns, strict=True)}


def _new_features(selections: Columns) -> dict[tuple[int, ...], int]:
    """Count by (method, budget, prompt) the features that no earlier prompt's circuit holds."""
    key = feature_keys(selections["layer"], selections["feature"])
    columns = np.stack([selections["method"], selections["budget"], key, selections["prompt"]])
    # In order of the prompts, so that the first of equal features is the earliest prompt's.
    columns = columns[:, np.argsort(selections["prompt"], kind="stable")]
    _, first = np.unique(columns[:3], axis=1, return_index=True)
    cases, count = np.unique(columns[[0, 1, 3]][:, first], axis=1, return_counts=True)
    return {tuple(case): int(n) for case, n in zip(cases.T.tolist(), count, strict=True)}


def _merged(parts: Sequence[Columns]) -> dict[str, Any]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
