"""The report of a results folder, with whatever stages it holds."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from pie_jax.errors import InputError
from pie_jax.features.weights import load_weights
from pie_jax.models.loader import LanguageModel
from pie_jax.prune.results.resumable_folder import load_result
from pie_jax.report.html import write_report
from pie_jax.report.load_explained import load_explained
from pie_jax.tasks import Pair, read_pairs
from pie_jax.transcoders.store import Transcoder

REPORT, PAIRS = "report.html", "pairs.jsonl"
# The page of a pair's graph, which the report links to.
GRAPH = "graph/graph.html"


def report_run(
    folder: str | Path,
    out: str | Path | None = None,
    *,
    pairs: str | Path | None = None,
    model: LanguageModel | str | None = None,
    transcoder: Transcoder | str | None = None,
) -> Path:
    """Write a folder's report.html (or `out`) and return its path.

    Pairs are those of the folder's pairs.jsonl by default. Raises `InputError` if they are
    missing or not the run's.
    """
    folder = Path(folder)
    result = load_result(folder)
    rows = run_pairs(folder, pairs)
    language_model, clt = load_weights(result, model, transcoder)
    explained = load_explained(folder, result, language_model.tokenizer)
    path = folder / REPORT if out is None else Path(out)
    write_report(
        result,
        path,
        model=language_model,
        transcoder=clt,
        pairs=rows,
        explained=explained,
        graph=_link(folder / GRAPH, path),
    )
    return path


def run_pairs(folder: Path, pairs: str | Path | None) -> list[Pair]:
    """Return a run's pairs, from its folder or a file. Raises `InputError` where there are none."""
    source = Path(pairs) if pairs is not None else folder / PAIRS
    if not source.exists():
        raise InputError(f"{source}: no pairs; name the run's own with --pairs.")
    return read_pairs(source)


def _link(graph: Path, report: Path) -> str | None:
    """Return the address of a graph's page from where the report lies, None without one."""
    if not graph.exists():
        return None
    try:
        return quote(Path(os.path.relpath(graph, report.parent)).as_posix())
    except ValueError:  # on another drive
        return graph.resolve().as_uri()
