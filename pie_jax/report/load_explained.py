"""Results of stages II and III, read from their folder for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pie_jax.charts.text import UNDEFINED, number, percent, printable, visible
from pie_jax.evaluate.results import EVALUATION, load_evaluation
from pie_jax.evaluate.table import Summary, summarise
from pie_jax.features.baselines import KEPT, SHUFFLED
from pie_jax.features.examples.table import load_examples
from pie_jax.features.groups import Chosen, feature_groups
from pie_jax.features.kept import method_and_budget
from pie_jax.features.promoted_file import load_promoted
from pie_jax.features.records import Explanation, FeatureExamples, FeatureKey
from pie_jax.features.texts import ShowsTokens, window_text
from pie_jax.files.stage_record import load_stages
from pie_jax.interpret.run import load_explanations
from pie_jax.prune.results.tables import PruneResult
from pie_jax.report.explained import Explained, ExplainedRow, Piece, ScoreCell, pieces, score_cell

_WINDOWS, _LOWER, _TOKENS = 3, 2, 6
_LABELS = {"patterns": "patterns, no LLM"}
_GROUPS = {
    KEPT: "kept features",
    "random": "random active features, not kept",
    "top-activation": "features of the largest mean activation",
    SHUFFLED: "kept features with other features' explanations: the floor",
}


def load_explained(
    folder: str | Path, result: PruneResult, tokenizer: ShowsTokens
) -> Explained | None:
    """Read what the last interpret and evaluate of a folder left; None if there was none."""
    stages = load_stages(folder)
    record = stages.get("interpret")
    if record is None:
        return None
    chosen = Chosen.of_record(record)
    keys = feature_groups(result, chosen)[KEPT]
    explanations = load_explanations(folder, record["explainer"], record["explainer_model"])
    table, judge = scored_table(folder), ""
    if table is not None:
        scored = stages["evaluate"]
        judge = _named(scored["judge"], scored["judge_model"])
    return Explained(
        *_rows(folder, result, tokenizer, keys, explanations, table, chosen),
        *_groups(table),
        _whose(result, chosen),
        _named(record["explainer"], record["explainer_model"]),
        judge,
    )


def scored_table(folder: str | Path) -> pa.Table | None:
    """Return the scores of a folder's last explanations, None where these have none."""
    stages = load_stages(folder)
    record, scored = stages.get("interpret"), stages.get("evaluate")
    if record is None or scored is None or not (Path(folder) / EVALUATION).exists():
        return None
    return load_evaluation(folder) if _same(scored, record) else None


def _rows(
    folder: str | Path,
    result: PruneResult,
    tokenizer: ShowsTokens,
    keys: Sequence[FeatureKey],
    explanations: Sequence[Explanation],
    table: Any,
    chosen: Chosen,
) -> tuple[list[ExplainedRow], int, list[str]]:
    examples = {one.key: one for one in load_examples(folder)}
    promoted = load_promoted(folder)
    texts = {one.key: one for one in explanations}
    scorers, scores = _scores(table)
    kept = _kept_counts(result, chosen)
    rows = []
    for key in keys:
        found, told = examples.get(key), texts.get(key)
        if found is None or told is None:
            continue
        prompts, active = kept.get(key, (0, 0))
        tokens = promoted[key][0].promoted[:_TOKENS] if key in promoted else ()
        rows.append(
            ExplainedRow(
                key.layer,
                key.feature,
                f"{prompts} / {active}",
                prompts,
                percent(found.frequency),
                printable(told.text) if told.text is not None else told.status,
                told.text is not None,
                [scores.get((key, name), ScoreCell(UNDEFINED, "", "")) for name in scorers],
                _windows(found, tokenizer),
                [visible(token.text) for token in tokens],
            )
        )
    return rows, len(keys), scorers


def _windows(found: FeatureExamples, tokenizer: ShowsTokens) -> list[list[Piece]]:
    """Return the strongest windows, then weaker ones from the middle of the range down."""
    strong = list(found.top[:_WINDOWS])
    shown = {window.index for window in strong}
    weaker = [
        group[0] for group in reversed(found.deciles[:6]) if group and group[0].index not in shown
    ]
    every = [*strong, *weaker[:: max(1, len(weaker) // _LOWER)][:_LOWER]]
    return [pieces(window_text(tokenizer, window), found.maximum) for window in every]


def _scores(table: Any) -> tuple[list[str], Mapping[tuple[FeatureKey, str], ScoreCell]]:
    if table is None:
        return [], {}
    cells = {}
    rows = [row for row in table.to_pylist() if row["group"] == KEPT]
    for row in rows:
        cells[FeatureKey(row["layer"], row["feature"]), row["scorer"]] = score_cell(
            row["value"], row["low"], row["high"], row["n"], row["status"]
        )
    return list(dict.fromkeys(row["scorer"] for row in rows)), cells


def _groups(table: Any) -> tuple[list[tuple[str, str, list[ScoreCell]]], list[str]]:
    """Return (name, meaning, means) of every group, and each scorer's chance level."""
    if table is None:
        return [], []
    summaries = summarise(table)
    scorers = list(dict.fromkeys(one.scorer for one in summaries))
    cells = {(one.group, one.scorer): one for one in summaries}
    groups = dict.fromkeys(one.group for one in summaries)
    chances = [cells[KEPT, s].chance if (KEPT, s) in cells else None for s in scorers]
    return (
        [(g, _GROUPS.get(g, ""), [_mean_cell(cells[g, s]) for s in scorers]) for g in groups],
        [number(chance) for chance in chances],
    )


def _mean_cell(one: Summary) -> ScoreCell:
    low, high = one.score.interval or (None, None)
    cell = score_cell(one.score.value, low, high, one.score.n, "undefined")
    missing = sum(count for _, count in one.undefined)
    reasons = ", ".join(f"{count} {reason}" for reason, count in one.undefined)
    chance = f"; chance {number(one.chance)}" if one.scorer == "purity" and one.chance else ""
    lost = f"; undefined: {reasons}" if missing else ""
    return cell._replace(note=printable(f"{cell.note}{chance}{lost}"))


def _kept_counts(result: PruneResult, chosen: Chosen) -> dict[FeatureKey, tuple[int, int]]:
    method, budget = method_and_budget(result, chosen.method, chosen.budget)
    return {
        FeatureKey(row["layer"], row["feature"]): (row["prompts_kept"], row["prompts_active"])
        for row in result.features.to_pylist()
        if row["method"] == method and row["budget"] == budget
    }


def _whose(result: PruneResult, chosen: Chosen) -> str:
    method, budget = method_and_budget(result, chosen.method, chosen.budget)
    return f"{method}, K = {budget}"


def _same(scored: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    names = ("explainer", "explainer_model", *Chosen.__dataclass_fields__)
    return all(scored.get(name) == record.get(name) for name in names)


def _named(name: str, model: str | None) -> str:
    return _LABELS.get(name, name) if model is None else printable(f"{name}: {model}")
