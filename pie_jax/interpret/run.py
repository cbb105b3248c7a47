"""Stage II's last step: an explanation for every feature, each on disk as soon as it is there."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pie_jax.errors import InputError
from pie_jax.features.records import Explanation, FeatureExamples, FeatureKey
from pie_jax.files.journal import Journal, Row
from pie_jax.interpret.explainers import Explainer, ExplainInputs, get_explainer
from pie_jax.llm.sending.waiting import wait_for

EXPLANATIONS = "explanations.jsonl"
# done, total, what is being done
Progress = Callable[[int, int, str], None]
# A second look at the same windows finds nothing new; anything else that failed is tried again.
_FINAL = ("ok", "no-examples")
# Features under way at once; the client bounds its calls by itself.
_AT_ONCE = 32


def interpret(
    examples: Sequence[FeatureExamples],
    inputs: ExplainInputs,
    *,
    explainer: str = "patterns",
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> list[Explanation]:
    """Explain features, in their order; see `interpret_async`."""
    return wait_for(
        interpret_async(examples, inputs, explainer=explainer, out=out, progress=progress)
    )


async def interpret_async(
    examples: Sequence[FeatureExamples],
    inputs: ExplainInputs,
    *,
    explainer: str = "patterns",
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> list[Explanation]:
    """Explain features, in their order; with `out`, each goes to explanations.jsonl at once.

    A rerun takes what is there, and tries again what had failed. The file may hold several
    explainers' rows. `Stopped` (budget spent, key refused, ...) ends it after what is on its way.
    """
    chosen = get_explainer(explainer)
    journal = None if out is None else open_explanations(Path(out))
    done = 0

    async def one(feature: FeatureExamples) -> Explanation:
        nonlocal done
        settings = _settings(chosen, feature, inputs)
        found = _known(journal, chosen, inputs, feature.key, settings)
        if found is None:
            found = await chosen.explain(feature, inputs)
            if journal is not None:
                journal.append({**explanation_row(found), "settings": settings})
        done += 1
        if progress is not None:
            progress(done, len(examples), "features explained")
        return found

    found = await map_bounded(one, examples, _AT_ONCE)
    if journal is not None:
        journal.rewrite(sorted(journal.rows.values(), key=_order))
    return found


async def map_bounded(task: Callable[[Any], Any], items: Sequence[Any], at_once: int) -> list[Any]:
    """Return what `task` makes of each item, in order, so many at once.

    After the first error nothing new begins, what is under way ends, and the error is raised.
    """
    gate = asyncio.Semaphore(at_once)
    errors: list[BaseException] = []

    async def guarded(item: Any) -> Any:
        async with gate:
            if errors:
                return None
            try:
                return await task(item)
            except Exception as error:
                errors.append(error)
                return None

    results = await asyncio.gather(*(guarded(item) for item in items))
    if errors:
        raise errors[0]
    return results


def open_explanations(folder: Path) -> Journal:
    """Open explanations.jsonl: one row a feature, explainer and model."""
    folder.mkdir(parents=True, exist_ok=True)
    return Journal(
        folder / EXPLANATIONS,
        lambda row: (row["layer"], row["feature"], row["explainer"], row["model"]),
    )


def load_explanations(
    folder: str | Path, explainer: str | None = None, model: str | None = None
) -> list[Explanation]:
    """Read explanations.jsonl, of one explainer or model if named, in order of the features.

    Raises `InputError` where there is none.
    """
    path = Path(folder) / EXPLANATIONS
    if not path.exists():
        raise InputError(f"{path}: no explanations; run `pie-jax interpret` first.")
    rows = sorted(open_explanations(Path(folder)).rows.values(), key=_order)
    return [
        read_explanation(row)
        for row in rows
        if explainer in (None, row["explainer"]) and model in (None, row["model"])
    ]


def explanation_row(explanation: Explanation) -> Row:
    """Return an explanation as it stands in the file."""
    row = asdict(explanation)
    layer, feature = row.pop("key")
    ids = list(row.pop("example_ids"))
    return {"layer": layer, "feature": feature, **row, "example_ids": ids}


def read_explanation(row: Row) -> Explanation:
    """Return the explanation of a row."""
    return Explanation(
        FeatureKey(row["layer"], row["feature"]),
        row["text"],
        row["explainer"],
        row["model"],
        row["status"],
        row["cost"],
        tuple(row["example_ids"]),
    )


def _known(
    journal: Journal | None,
    explainer: Explainer,
    inputs: ExplainInputs,
    key: FeatureKey,
    settings: str,
) -> Explanation | None:
    """Return the finished explanation made under the same settings."""
    if journal is None:
        return None
    row = journal.rows.get((*key, explainer.name, _model(explainer, inputs)))
    if row is None or row.get("settings") != settings or row["status"] not in _FINAL:
        return None
    return read_explanation(row)


def _model(explainer: Explainer, inputs: ExplainInputs) -> str | None:
    return inputs.chat.config.model if explainer.needs_llm and inputs.chat else None


def _settings(explainer: Explainer, feature: FeatureExamples, inputs: ExplainInputs) -> str:
    """Return a hash of what an explanation follows from."""
    windows = sorted(window.index for window in feature.explaining())
    promoted = list(inputs.promoted.get(feature.key, ()))
    whole = [explainer.name, asdict(inputs.options), feature.maximum, windows, promoted]
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:16]


def _order(row: Row) -> tuple:
    return row["layer"], row["feature"], row["explainer"], row["model"] or ""
