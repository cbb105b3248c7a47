"""The report of a results folder, with whatever stages it holds."""

from __future__ import annotations

from pathlib import Path

from pie_jax.errors import InputError
from pie_jax.features.weights import load_weights
from pie_jax.models.loader import LanguageModel
from pie_jax.prune.results.resumable_folder import load_result
from pie_jax.report.html import write_report
from pie_jax.report.load_explained import load_explained
from pie_jax.tasks import read_pairs
from pie_jax.transcoders.store import Transcoder

REPORT, PAIRS = "report.html", "pairs.jsonl"


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
    source = Path(pairs) if pairs is not None else folder / PAIRS
    if not source.exists():
        raise InputError(f"{source}: no pairs; name the run's own with --pairs.")
    rows = read_pairs(source)
    language_model, clt = load_weights(result, model, transcoder)
    explained = load_explained(folder, result, language_model.tokenizer)
    path = folder / REPORT if out is None else Path(out)
    write_report(
        result, path, model=language_model, transcoder=clt, pairs=rows, explained=explained
    )
    return path
