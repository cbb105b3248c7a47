"""Peak memory of a pass over a corpus, for a corpus of 10^5 and one of 10^6 tokens.

    python -m benchmarks.studies.examples_memory --json benchmarks/results/examples_memory.json

Collects examples of random features of the demo, each corpus in a fresh process, and compares the
peaks of the process's own memory (anonymous pages).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.parts.machine import PeakAnonymous, describe

_MIB = 2**20
# Of the demo's documents, which mostly fit one window each.
_TOKENS_A_WINDOW = 19.7
# What allocators and compilers may differ by between two runs.
_SLACK = 1.1


def main(
    features: int = 200,
    sizes: str = "100000,1000000",
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
    child: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure, print a table, and write it as JSON."""
    tokens = [int(size) for size in sizes.split(",")]
    if child is not None:
        print(json.dumps(_measure(child, features, tokens[0])))
        return
    with tempfile.TemporaryDirectory() as name:
        corpus = _make_corpus(Path(name) / "corpus.jsonl", max(tokens))
        rows = [_child(corpus, features, size) for size in tokens]
    figures = {
        "machine": describe(),
        "features": features,
        "rows": rows,
        "flat": max(row["peak_mib"] for row in rows) <= _SLACK * rows[0]["peak_mib"],
    }
    table = Table("tokens", "peak MiB", "state MiB", "tokens/s", title="memory of a corpus pass")
    for row in rows:
        table.add_row(*(f"{row[key]:,.0f}" for key in ("tokens", "peak_mib", "state_mib", "speed")))
    Console().print(table)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _make_corpus(path: Path, tokens: int) -> Path:
    from pie_jax.demo.corpus import make_documents

    # Drawn in parts: the generator holds what it draws in memory.
    with path.open("w", encoding="utf-8") as file:
        for seed in range(int(tokens / _TOKENS_A_WINDOW) // 10_000 + 1):
            for text in make_documents(10_000, seed=seed):
                file.write(json.dumps({"text": text}) + "\n")
    return path


def _child(corpus: Path, features: int, tokens: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.studies.examples_memory", "--child", str(corpus)]
    command += ["--features", str(features), "--sizes", str(tokens)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _measure(path: Path, features: int, tokens: int) -> dict[str, Any]:
    import pie_jax
    from pie_jax.features.activations import FeatureReader
    from pie_jax.features.examples.corpus_pass import CorpusPass
    from pie_jax.features.examples.options import ExampleOptions
    from pie_jax.features.records import FeatureKey
    from pie_jax.files.corpus.documents import FileCorpus

    model, transcoder = pie_jax.load_model("demo"), pie_jax.load_transcoder("demo")
    config, rng = transcoder.config, np.random.default_rng(0)
    chosen = rng.choice(config.num_layers * config.features, features, replace=False)
    keys = [FeatureKey(*map(int, divmod(place, config.features))) for place in chosen]
    options = ExampleOptions(max_windows=round(tokens / _TOKENS_A_WINDOW))
    with PeakAnonymous() as peak:
        reader = FeatureReader(model, transcoder, keys)
        one = CorpusPass(reader, model.tokenizer, FileCorpus([path]), options)
        collector = one.collect()
        collector.compact()
    return {
        "tokens": collector.statistics.tokens,
        "peak_mib": peak.bytes / _MIB,
        "state_mib": collector.nbytes / _MIB,
        "speed": one.tokens / one.seconds,
    }


if __name__ == "__main__":
    typer.run(main)
