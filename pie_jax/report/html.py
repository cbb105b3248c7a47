"""The report of a pruning run: everything in one HTML file, nothing from outside."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from pie_jax.charts import svg
from pie_jax.charts.line_chart import LARGE, SMALL, ChartSize, Series, line_chart
from pie_jax.charts.text import count, number, printable, visible
from pie_jax.errors import InputError
from pie_jax.features.promoted import promoted_tokens
from pie_jax.models.loader import LanguageModel
from pie_jax.prune.methods import METHODS
from pie_jax.prune.results.tables import PruneResult
from pie_jax.report import facts
from pie_jax.report.circuit_map import KeptOccurrence, circuit_map
from pie_jax.report.explained import SHADES, Explained
from pie_jax.report.features import feature_list, payload, token_texts
from pie_jax.report.measures import KL_LAST, OTHERS, Measure, cell, measure_table
from pie_jax.tasks import Pair
from pie_jax.tasks.encode import MAX_TOKENS
from pie_jax.transcoders.loader import require_match
from pie_jax.transcoders.store import Transcoder

_TOP_TOKENS = 6
_NOTHING = "nothing kept"


def write_report(
    result: PruneResult,
    path: Path,
    *,
    model: LanguageModel,
    transcoder: Transcoder,
    pairs: Sequence[Pair],
    title: str = "Pruning report",
    explained: Explained | None = None,
    graph: str | None = None,
) -> None:
    """Write `report.html` for a run on `model`, `transcoder` and `pairs`.

    `explained` adds what stages II and III found (`pie_jax.report.load_explained`), `graph` a link
    to the page of a pair's attribution graph.

    Raises `InputError` where these are not the run's, or the file cannot be written.
    """
    page = render(
        result,
        model=model,
        transcoder=transcoder,
        pairs=pairs,
        title=title,
        explained=explained,
        graph=graph,
    )
    temporary = path.with_name(path.name + ".tmp")
    try:
        # Half a surrogate pair, which JSON allows, has no place in UTF-8.
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); name a file in a folder that exists."
        ) from error


def render(
    result: PruneResult,
    *,
    model: LanguageModel,
    transcoder: Transcoder,
    pairs: Sequence[Pair],
    title: str,
    explained: Explained | None = None,
    graph: str | None = None,
) -> str:
    """Return the page as text."""
    _require_own(result, model, transcoder, pairs)
    config = result.record.get("config", {})
    found = result.behaviour["method"].unique().to_pylist()
    methods = [m for m in config.get("methods", found) if m in found]
    budgets = sorted(result.behaviour["budget"].unique().to_pylist())
    shown = (methods[0], budgets[(len(budgets) - 1) // 2])
    lists = {(m, b): feature_list(result, m, b) for m in methods for b in budgets}
    selection = _first_selection(result, *shown)
    used = {(row.layer, row.feature) for part in lists.values() for row in part.rows}
    used |= {(row["layer"], row["feature"]) for row in selection}
    tokens = token_texts(promoted_tokens(model, transcoder, sorted(used), _TOP_TOKENS))
    null = result.null()
    environment = Environment(
        loader=PackageLoader("pie_jax.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        mark=lambda i: svg.marker(0, 0, i),
        styles=svg.STYLES,
        title=printable(title),
        finding=facts.finding(result, shown[1]),
        facts=facts.facts(result, model, transcoder),
        removal=facts.removal(config),
        scope=facts.scope(config),
        methods=methods,
        budgets=budgets,
        descriptions={m: METHODS[m].description if m in METHODS else "" for m in methods},
        prompts=count(facts.prompts(result), "prompt"),
        kl=measure_table(result, KL_LAST, methods, budgets),
        null=cell(null, number),
        chart=_chart(result, KL_LAST, methods, LARGE),
        others=[
            (
                measure_table(result, measure, methods, budgets),
                _chart(result, measure, methods, SMALL),
            )
            for measure in OTHERS
        ],
        shown=shown,
        kept=lists[shown],
        tokens=tokens,
        explained=explained,
        graph=graph,
        shades=SHADES,
        payload=payload(lists, tokens),
        circuit=_circuit(result, selection, tokens, model, pairs),
        record=facts.record_rows(result),
        skipped=facts.skipped_messages(result),
    )


def _require_own(
    result: PruneResult, model: LanguageModel, transcoder: Transcoder, pairs: Sequence[Pair]
) -> None:
    """Refuse weights or pairs that cannot be the run's; equal sizes are not told apart."""
    require_match(transcoder, model.config, model.name)
    if result.behaviour.num_rows == 0:
        raise InputError("report: the run holds no prompts; nothing can be reported.")
    if (last := int(np.max(result.behaviour["prompt"].to_numpy()))) >= len(pairs):
        raise InputError(
            f"report: the run has results for pair {last}, but only {len(pairs)} pairs are given; "
            "give the run's own pairs."
        )
    sizes = transcoder.config
    for name, size in (("layer", sizes.num_layers), ("feature", sizes.features)):
        largest = np.max(result.features[name].to_numpy(), initial=-1)
        if largest >= size:
            raise InputError(
                f"report: the run kept {name} {largest}, which {transcoder.name} does not have; "
                "give the run's own transcoder."
            )


def _first_selection(result: PruneResult, method: str, budget: int) -> list[dict[str, Any]]:
    """Return the kept occurrences of the first prompt."""
    table = result.selections
    first = int(np.min(result.behaviour["prompt"].to_numpy()))
    use = table["prompt"].to_numpy() == first
    use &= table["method"].to_numpy(zero_copy_only=False) == method
    use &= table["budget"].to_numpy() == budget
    return table.take(np.flatnonzero(use)).to_pylist()


def _chart(result: PruneResult, measure: Measure, methods: Sequence[str], size: ChartSize) -> str:
    summary = result.summary(measure.column)
    series = [
        Series(method, i, [(b, mean) for b, mean in summary[method].items() if mean is not None])
        for i, method in enumerate(methods)
    ]
    null = result.null() if measure is KL_LAST else None
    level = measure.level if null is None else null.mean
    return line_chart(
        series,
        None if level is None else (_NOTHING if null else measure.title, level),
        x_label="K, kept occurrences (log scale)",
        y_label=measure.axis,
        size=size,
    )


def _circuit(
    result: PruneResult,
    selection: Sequence[dict[str, Any]],
    tokens: dict[tuple[int, int], list[list[str]]],
    model: LanguageModel,
    pairs: Sequence[Pair],
) -> dict[str, Any]:
    """Return the first prompt's map and what it shows."""
    first = int(np.min(result.behaviour["prompt"].to_numpy()))
    pair = pairs[first]
    texts = [model.tokenizer.token(i) for i in model.tokenizer.encode(pair.clean)[:MAX_TOKENS]]
    if selection and max(row["position"] for row in selection) >= len(texts):
        raise InputError(
            f"report: the run kept a position that pair {first} does not have; give the run's own "
            "pairs."
        )
    kept = [
        KeptOccurrence(
            row["layer"],
            row["position"],
            row["feature"],
            row["score"],
            "promotes " + " ".join(tokens[row["layer"], row["feature"]][0]),
        )
        for row in selection
    ]
    return {
        "map": circuit_map(kept, texts, model.config.num_layers),
        "count": count(len(kept), "occurrence"),
        "row": first,
        "clean": printable(pair.clean),
        "corrupted": printable(pair.corrupted[0]) if pair.corrupted else "",
        "target": None if pair.target is None else visible(pair.target),
        "distractor": None if pair.distractor is None else visible(pair.distractor),
    }
