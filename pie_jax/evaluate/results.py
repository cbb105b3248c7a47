"""evaluation.parquet: one row per group, feature and scorer; documented in docs/scoring.md."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pie_jax.errors import InputError
from pie_jax.evaluate.statistics import Interval, Score
from pie_jax.features.baselines import Trial
from pie_jax.files.atomic import replacing
from pie_jax.files.journal import Journal, Row
from pie_jax.judges.base import Judge

EVALUATION = "evaluation.parquet"
JOURNAL = "evaluation.jsonl"
SCHEMA = pa.schema(
    [
        ("group", pa.string()),
        ("layer", pa.int32()),
        ("feature", pa.int32()),
        ("explained_layer", pa.int32()),
        ("explained_feature", pa.int32()),
        ("explanation", pa.string()),
        ("explainer", pa.string()),
        ("explainer_model", pa.string()),
        ("judge", pa.string()),
        ("judge_model", pa.string()),
        ("scorer", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("n", pa.int32()),
        ("chance", pa.float64()),
        ("failed", pa.int32()),
        ("status", pa.string()),
        ("detail", pa.map_(pa.string(), pa.float64())),
    ]
)
_SCORE = ("value", "low", "high", "n", "chance", "failed", "status", "detail")


def trial_row(group: str, trial: Trial, judge: Judge, scores: dict[str, Score]) -> Row:
    """Return a finished trial as a line of evaluation.jsonl."""
    explanation = trial.explanation
    return {
        "group": group,
        "layer": trial.key.layer,
        "feature": trial.key.feature,
        "explained_layer": explanation.key.layer,
        "explained_feature": explanation.key.feature,
        "explanation": explanation.text,
        "explainer": explanation.explainer,
        "explainer_model": explanation.model,
        "judge": judge.name,
        "judge_model": judge.model,
        "scores": {name: score_row(score) for name, score in scores.items()},
    }


def identity(row: Row) -> tuple:
    """Return what tells a trial from another one."""
    names = ("group", "layer", "feature", "explainer", "explainer_model", "judge", "judge_model")
    return tuple(row[name] for name in names)


def open_journal(folder: Path) -> Journal:
    """Open evaluation.jsonl, where finished trials are."""
    folder.mkdir(parents=True, exist_ok=True)
    return Journal(folder / JOURNAL, identity)


def score_row(score: Score) -> Row:
    """Return a score as JSON has it."""
    low, high = score.interval or (None, None)
    values = (score.value, low, high, score.n, score.chance, score.failed, score.status)
    return dict(zip(_SCORE, (*values, dict(score.detail)), strict=True))


def read_score(row: dict[str, Any]) -> Score:
    """Return the score of a row."""
    interval = None if row["low"] is None else Interval(row["low"], row["high"])
    return Score(
        row["value"],
        row["n"],
        interval,
        row["status"],
        row["chance"],
        row["failed"],
        tuple(dict(row["detail"]).items()),
    )


def evaluation_table(rows: Iterable[Row]) -> pa.Table:
    """Return trials as a table, one row a score."""
    flat = []
    for row in rows:
        common = {name: row[name] for name in SCHEMA.names if name in row}
        for scorer, score in row["scores"].items():
            detail = list(score["detail"].items())
            flat.append({**common, **score, "scorer": scorer, "detail": detail})
    return pa.Table.from_pylist(flat, SCHEMA)


def save_evaluation(folder: Path, table: pa.Table) -> None:
    """Write evaluation.parquet, whole or not at all."""
    with replacing(folder / EVALUATION) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def load_evaluation(folder: str | Path) -> pa.Table:
    """Read evaluation.parquet; raises `InputError` where there is none."""
    path = Path(folder) / EVALUATION
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: no scores; run `pie-jax evaluate` first.") from error
