"""Facts about a run in words, from its record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pie_jax.charts.text import count, number, printable
from pie_jax.intervals import Mean
from pie_jax.models.loader import LanguageModel
from pie_jax.prune.results.tables import PruneResult
from pie_jax.report.measures import KL_LAST
from pie_jax.transcoders.store import Transcoder

_REMOVED = {
    "corrupted-prompt": "set to its activation on the corrupted prompt",
    "zero-features": "set to zero",
}
_SKIPPED_SHOWN = 50


def facts(
    result: PruneResult, model: LanguageModel, transcoder: Transcoder
) -> list[tuple[str, str, str]]:
    """Return the page's head: (name, value, detail) of what was run."""
    record = result.record
    config, sizes = record.get("config", {}), transcoder.config
    kind = "cross-layer transcoder" if sizes.cross_layer else "per-layer transcoder"
    layers = count(model.config.num_layers, "layer")
    dtype = model.transformer.embedding.dtype
    skipped = record.get("skipped", {})
    reasons = ", ".join(f"{n:,} {reason}" for reason, n in skipped.items())
    budgets = ", ".join(map(str, config.get("budgets", [])))
    rows = [
        ("Model", model.name, f"{layers}, width {model.config.d_model:,}, {dtype}"),
        ("Transcoder", transcoder.name, f"{kind}, {sizes.features:,} features a layer"),
        ("Pairs", f"{prompts(result):,}", f"skipped: {reasons}" if skipped else "none skipped"),
        ("Metric m", config.get("metric"), ""),
        ("Corruption", config.get("corruption"), f"{config.get('gradient')} gradient"),
        ("Budgets K", budgets, f"kept occurrences {scope(config)}"),
    ]
    return [(name, printable(value), printable(detail)) for name, value, detail in rows if value]


def prompts(result: PruneResult) -> int:
    """Return how many prompts the measures are means over."""
    return len(result.behaviour["prompt"].unique())


def scope(config: Mapping[str, Any]) -> str:
    """Say what a budget counts."""
    per_layer = config.get("scope_layers") == "per-layer"
    return "a prompt, shared by its layers" if per_layer else "a prompt"


def removal(config: Mapping[str, Any]) -> str:
    """Say what happens to an occurrence that is not kept."""
    return _REMOVED.get(str(config.get("corruption")), "replaced")


def finding(result: PruneResult, budget: int) -> str:
    """Return one sentence: the lowest mean KL at a budget, and what keeping nothing gives."""
    means = {m: row.get(budget) for m, row in result.summary(KL_LAST.column).items()}
    defined: list[tuple[str, Mean]] = [(m, mean) for m, mean in means.items() if mean is not None]
    if not defined:
        return ""
    method, mean = min(defined, key=lambda one: one[1].mean)
    interval = f" (95% interval {number(mean.low)} to {number(mean.high)})" if mean.n > 1 else ""
    lead = "has the lowest mean KL" if len(defined) > 1 else "has a mean KL of"
    null = result.null()
    end = "" if null is None else f"; with nothing kept it is {number(null.mean)}"
    return (
        f"At K = {budget}, {method} {lead}{',' if len(defined) > 1 else ''} "
        f"{number(mean.mean)} nats{interval}{end}."
    )


def record_rows(result: PruneResult) -> list[tuple[str, str]]:
    """Return the whole record as (dotted name, value), without the skipped pairs."""
    record = {name: x for name, x in result.record.items() if name != "skipped_pairs"}
    return [(name, printable(value)) for name, value in _flat(record)]


def skipped_messages(result: PruneResult) -> list[str]:
    """Return why each of the first skipped pairs was skipped."""
    pairs = result.record.get("skipped_pairs", [])
    messages = [printable(str(pair["message"])) for pair in pairs[:_SKIPPED_SHOWN]]
    more = len(pairs) - len(messages)
    return messages + ([f"and {more:,} more, in run.json"] if more else [])


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    if isinstance(value, Mapping):
        return [
            row
            for key, x in value.items()
            for row in _flat(x, f"{name}.{key}" if name else str(key))
        ]
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return [(name, text)]
