"""The figures of docs/real-model.md from what the stages wrote, and their Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.real import chunks
from benchmarks.real.claims import kl_rows, mean_table, medians, random_size, ratios, share_rows

BASELINE = "fap-synergy"
# Budgets at which random sets are sized.
SIZED = (50, 100, 200)


def figures(out: Path, tasks: Sequence[str], groups: Sequence[chunks.Group]) -> dict[str, Any]:
    """Return everything that was measured; what was not is left out."""
    report = _json(out / "transcoder" / "training_report.json")
    found: dict[str, Any] = {
        "corpus": _json(out / "corpus.json"),
        "training": None if report is None else {k: v for k, v in report.items() if k != "run"},
        "options": None if report is None else report["run"]["options"],
        "train": _json(out / "train.json"),
        "prune": _json(out / "prune.json"),
        "explain": _json(out / "explain.json"),
        "tasks": {},
        "unseen": {},
    }
    for task in tasks:
        have = {group.name: chunks.joined(out / "prune", task, group) for group in groups}
        unseen = [have.pop(group.name, None) for group in chunks.ALL_UNSEEN]
        if unseen[-1] is not None:
            unseen[-1] = _renamed(unseen[-1], f"auto, {chunks.MORE} more made")
        if measured := [one for one in unseen if one is not None]:
            found["unseen"][task] = _measures(measured)
        random, once = (have.pop(group.name, None) for group in (chunks.GROWN, chunks.ONCE))
        kept = [one for one in have.values() if one is not None]
        if kept:
            found["tasks"][task] = _task(kept, None if random is None else random["kl"]["random"])
            if once is not None:
                found["tasks"][task]["CPU seconds a prompt"][chunks.ONCE.name] = once["cpu_seconds"]
    return found


def _renamed(found: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the measures of one method under another name."""
    rows = ("seconds", "against", *chunks.MEASURES)
    return {**found, **{row: dict.fromkeys([name], *found[row].values()) for row in rows}}


def _task(groups: Sequence[dict[str, Any]], random: dict[int, np.ndarray] | None) -> dict[str, Any]:
    kl = _all(groups, "kl")
    found = _measures(groups)
    most = max(groups, key=lambda group: len(group["null"]))
    found["occurrences"] = float(np.mean(most["occurrences"]))
    if random is not None:
        grown = {**kl.get("random", {}), **random}
        count = min(map(len, grown.values()))
        grown = {size: values[:count] for size, values in grown.items()}
        found["random sizes"] = mean_table({"random": grown})["random"]
        found["random size for equal KL"] = {
            method: {k: random_size(grown, row[k]) for k in SIZED if k in row}
            for method, row in kl.items()
            if method != "random"
        }
    return found


def _all(groups: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    return {method: row for group in groups for method, row in group[name].items()}


def _measures(groups: Sequence[dict[str, Any]]) -> dict[str, Any]:
    kl = _all(groups, "kl")
    most = max(groups, key=lambda group: len(group["null"]))
    found: dict[str, Any] = {
        "null": mean_table({"null": {0: most["null"]}})["null"][0],
        "kl": mean_table(kl),
        "against": mean_table(_all(groups, "against")),
        "seconds a prompt": _all(groups, "seconds"),
        "CPU seconds a prompt": {
            "+".join(group["seconds"]): group["cpu_seconds"] for group in groups
        },
    }
    for name in ("completeness", "faithfulness"):
        found[f"median {name}"] = medians(_all(groups, name))
    for base in (BASELINE, "fap"):
        if base in kl:
            found[f"ratio to {base}"] = {name: ratios(row, kl[base]) for name, row in kl.items()}
    return found


def markdown(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of all tables."""
    for kind in ("tasks", "unseen"):
        for task, one in found[kind].items():
            null, where = one["null"], " on unseen corruptions" if kind == "unseen" else ""
            interval = f"[{null['low']:.2f}, {null['high']:.2f}]"
            yield f"\n**{task}{where}**: nothing kept: {null['mean']:.2f} {interval}\n"
            yield from kl_rows(one["kl"], one["seconds a prompt"])
            yield from _shares(one)
            for name in (f"ratio to {BASELINE}", "ratio to fap"):
                yield from _ratios(name, one.get(name, {}))
            yield from _sizes(one.get("random size for equal KL", {}))
    if found["training"] is not None:
        yield from _quality(found["training"]["heldout"])
    if found["explain"] is not None:
        yield from _scores(found["explain"]["scores"])


_SHARES = {
    "median completeness": "median completeness",
    "median faithfulness": "median faithfulness",
    "against": "share of the kept effect against the target",
}


def _shares(found: dict[str, Any]) -> Iterator[str]:
    for name, title in _SHARES.items():
        yield f"\n{title}\n"
        yield from share_rows(found[name])


def _ratios(title: str, rows: dict[str, dict[int, Any]]) -> Iterator[str]:
    for method, row in rows.items():
        cells = [
            f"{budget}: {one['mean']:.2f} [{one['low']:.2f}, {one['high']:.2f}] (n {one['n']})"
            for budget, one in row.items()
            if one is not None
        ]
        yield f"- {title}, {method}: {'; '.join(cells)}"


def _sizes(rows: dict[str, dict[int, Any]]) -> Iterator[str]:
    for method, row in rows.items():
        cells = [
            f"{budget}: {one['bound']}{one['size']:.0f} [{one['low']:.0f}, {one['high']:.0f}]"
            for budget, one in row.items()
            if one is not None
        ]
        yield f"- random active set for equal KL, {method}: {'; '.join(cells)}"


def _quality(heldout: dict[str, Any]) -> Iterator[str]:
    yield "\n| layer | explained variance | L0 | dead |\n|---|---|---|---|"
    rows = zip(heldout["explained_variance"], heldout["l0"], heldout["dead_share"], strict=True)
    for layer, (variance, l0, dead) in enumerate(rows):
        yield f"| {layer} | {variance:.3f} | {l0:.1f} | {dead:.1%} |"


def _scores(scores: Sequence[dict[str, Any]]) -> Iterator[str]:
    scorers = list(dict.fromkeys(one["scorer"] for one in scores))
    yield f"\n| | {' | '.join(scorers)} |\n|---{'|---' * len(scorers)}|"
    for group in dict.fromkeys(one["group"] for one in scores):
        mine = {one["scorer"]: one for one in scores if one["group"] == group}
        yield f"| {group} | {' | '.join(_score(mine[name]) for name in scorers)} |"


def _score(one: dict[str, Any]) -> str:
    if one["value"] is None:
        return f"– (n {one['n']})"
    low, high = one["interval"]
    return f"{one['value']:.2f} [{low:.2f}, {high:.2f}] (n {one['n']})"


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
