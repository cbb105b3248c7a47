"""Scores of explanations without an LLM: the table of docs/explanations-results.md.

python -m benchmarks.explanations --json benchmarks/results/explanations.json
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import typer

import pie_jax
from benchmarks.parts.machine import describe
from pie_jax.demo.corpus import example_corpus
from pie_jax.evaluate.presets import get_preset
from pie_jax.evaluate.run import evaluate
from pie_jax.evaluate.scorers import DEFAULT_SCORERS
from pie_jax.evaluate.statistics import Score, mean_score
from pie_jax.evaluate.subject import Shared
from pie_jax.evaluate.table import Summary, difference, markdown, summarise
from pie_jax.features.activations import max_activations
from pie_jax.features.baselines import KEPT, RANDOM, SHUFFLED, own, random_features, shuffled
from pie_jax.features.corpus.sample import read_natural, sample_windows
from pie_jax.features.examples.run import collect_examples
from pie_jax.features.kept import kept_features
from pie_jax.features.records import FeatureKey
from pie_jax.interpret.explainers import ExplainInputs
from pie_jax.interpret.run import interpret
from pie_jax.interpret.stage import SAMPLE
from pie_jax.judges import make_judge
from pie_jax.tasks import TASKS, get_task
from pie_jax.terminal import progress_bar, use_compile_cache

JUDGE = "patterns"


def main(
    count: Annotated[int, typer.Option("-n", help="Pairs per task.")] = 32,
    method: str = "fap",
    budget: int = 10,
    features: Annotated[int, typer.Option(help="Kept features, and others, per task.")] = 30,
    documents: Annotated[int, typer.Option(help="Of the demo's corpus.")] = 4000,
    preset: str = "default",
    seed: int = 0,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Explain and score features that both of the demo's tasks keep, and active ones that neither
    keeps; each kept one also with another's explanation."""
    use_compile_cache()
    started = time.perf_counter()
    model, clt = pie_jax.load_model(), pie_jax.load_transcoder()
    results = []
    for task in TASKS:
        pairs = get_task(task).generate(
            count, seed=seed, tokenizer=model.tokenizer, split="heldout"
        )
        results.append(pie_jax.prune(model, clt, pairs, methods=(method,), budgets=(budget,)))
    every_kept = [kept_features(result, method, budget) for result in results]
    kept = list(dict.fromkeys(key for keys in every_kept for key in keys[:features]))
    both = {key for keys in every_kept for key in keys}
    others = list(
        dict.fromkeys(
            key for result in results for key in random_features(result, list(both), features, seed)
        )
    )
    corpus = example_corpus(documents)
    with progress_bar("examples") as progress:
        examples = collect_examples(model, clt, [*kept, *others], corpus, progress=progress)
    explained = {one.key: one for one in interpret(examples, ExplainInputs(model.tokenizer))}

    def activations(texts: Any, keys: Any) -> np.ndarray:
        return max_activations(model, clt, texts, keys)

    texts = sample_windows(corpus, model.tokenizer, SAMPLE, seed=seed)
    shared = Shared(
        make_judge(JUDGE, model.tokenizer),
        model.tokenizer,
        activations,
        read_natural(texts, [*kept, *others], model.tokenizer, activations),
        get_preset(preset),
        seed=seed,
    )

    def of(keys: list[FeatureKey]) -> list[Any]:
        return [explained[key] for key in keys]

    groups = {
        KEPT: own(of(kept)),
        RANDOM: own(of(others)),
        SHUFFLED: shuffled(of(kept), of(others), seed),
    }
    with progress_bar("evaluate") as progress:
        table = evaluate(groups, examples, shared, progress=progress)
    summaries = summarise(table)
    figures: dict[str, Any] = {
        "machine": describe(),
        "seconds": round(time.perf_counter() - started, 1),
        "settings": {
            "pairs": count,
            "method": method,
            "budget": budget,
            "documents": documents,
            "tokens": examples[0].tokens_seen,
            "preset": preset,
            "seed": seed,
        },
        "scores": [figure(one) for one in summaries],
        # Scores are clipped at 0, feature by feature: a mean of noise is above it.
        "signed": {
            name: score_figures(signed(table, name)) for name in ("clarity", "responsiveness")
        },
        "kept - shuffled": {
            scorer: score_figures(difference(table, scorer)) for scorer in DEFAULT_SCORERS
        },
    }
    print(markdown(summaries) + chance_row(summaries))
    for scorer, score in figures["signed"].items():
        low, high = score["interval"]
        print(f"{scorer}, shuffled, not clipped at 0: {score['value']:.2f} [{low:.2f}, {high:.2f}]")
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def signed(table: pa.Table, scorer: str) -> Score:
    """Return the mean signed Gini of shuffled explanations."""
    rows = table.select(["group", "scorer", "detail"]).to_pylist()
    mine = [row for row in rows if (row["group"], row["scorer"]) == (SHUFFLED, scorer)]
    found = [dict(row["detail"]).get("signed") for row in mine]
    return mean_score(np.array([np.nan if value is None else value for value in found], float))


def chance_row(summaries: list[Summary]) -> str:
    """Return the table's last row: what shuffled explanations would get by chance."""
    cells = [
        "–" if one.chance is None else f"{one.chance:.2f}"
        for one in summaries
        if one.group == SHUFFLED
    ]
    return f"| chance | {' | '.join(cells)} |"


def figure(one: Summary) -> dict[str, Any]:
    return {
        "group": one.group,
        "scorer": one.scorer,
        **score_figures(one.score),
        "chance": one.chance,
        "undefined": dict(one.undefined),
    }


def score_figures(score: Any) -> dict[str, Any]:
    return {"value": score.value, "interval": score.interval, "n": score.n}


if __name__ == "__main__":
    typer.run(main)
