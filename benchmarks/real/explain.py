"""Scores of explanations by patterns: kept features, random active ones, shuffled explanations."""

from __future__ import annotations

import time
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import pie_jax
from benchmarks.explanations import figure, score_figures
from benchmarks.real import chunks
from pie_jax.evaluate.presets import get_preset
from pie_jax.evaluate.run import evaluate
from pie_jax.evaluate.scorers import DEFAULT_SCORERS
from pie_jax.evaluate.subject import Shared
from pie_jax.evaluate.table import difference, summarise
from pie_jax.features.activations import max_activations
from pie_jax.features.baselines import KEPT, RANDOM, SHUFFLED, own, random_features, shuffled
from pie_jax.features.corpus.sample import read_natural, sample_windows
from pie_jax.features.examples.run import collect_examples
from pie_jax.features.kept import kept_features
from pie_jax.files.corpus.documents import FileCorpus, TextCorpus
from pie_jax.interpret.explainers import ExplainInputs
from pie_jax.interpret.run import interpret
from pie_jax.interpret.stage import SAMPLE
from pie_jax.judges import make_judge
from pie_jax.models.loader import LanguageModel
from pie_jax.tasks import get_task
from pie_jax.transcoders.store import Transcoder

METHOD, BUDGET = "fap", 50


class Sizes(NamedTuple):
    """Pairs of each task, features of each group, documents of the corpus, and the seed."""

    pairs: int
    features: int
    documents: int
    seed: int


def scores(
    model: LanguageModel, transcoder: Transcoder, corpus: Path, sizes: Sizes
) -> dict[str, Any]:
    """Return every scorer's mean by group, and how kept features differ from shuffled ones."""
    began = time.perf_counter()
    kept, others = _features(model, transcoder, sizes)
    texts = TextCorpus(list(islice(FileCorpus([corpus]).documents(), sizes.documents)))
    examples = collect_examples(model, transcoder, [*kept, *others], texts)
    explained = {one.key: one for one in interpret(examples, ExplainInputs(model.tokenizer))}

    def activations(some: Any, keys: Any) -> np.ndarray:
        return max_activations(model, transcoder, some, keys)

    sample = sample_windows(texts, model.tokenizer, SAMPLE, seed=sizes.seed)
    shared = Shared(
        make_judge("patterns", model.tokenizer),
        model.tokenizer,
        activations,
        read_natural(sample, [*kept, *others], model.tokenizer, activations),
        get_preset("default"),
        seed=sizes.seed,
    )
    mine, theirs = ([explained[key] for key in keys] for keys in (kept, others))
    groups = {KEPT: own(mine), RANDOM: own(theirs), SHUFFLED: shuffled(mine, theirs, sizes.seed)}
    table = evaluate(groups, examples, shared)
    return {
        "settings": {"method": METHOD, "budget": BUDGET, **sizes._asdict()},
        "tokens": examples[0].tokens_seen,
        "seconds": round(time.perf_counter() - began, 1),
        "scores": [figure(one) for one in summarise(table)],
        "kept - shuffled": {
            name: score_figures(difference(table, name)) for name in DEFAULT_SCORERS
        },
    }


def _features(model: LanguageModel, transcoder: Transcoder, sizes: Sizes) -> tuple[Any, Any]:
    """Return the features that most prompts keep, and active ones that none keeps."""
    kept: list[Any] = []
    every: set[Any] = set()
    results = []
    for task in chunks.TASKS:
        pairs = get_task(task).generate(sizes.pairs, seed=sizes.seed, tokenizer=model.tokenizer)
        result = pie_jax.prune(model, transcoder, pairs, methods=(METHOD,), budgets=(BUDGET,))
        found = kept_features(result, METHOD, BUDGET)
        kept += found[: sizes.features]
        every.update(found)
        results.append(result)
    others = [
        key
        for result in results
        for key in random_features(result, list(every), sizes.features, sizes.seed)
    ]
    return list(dict.fromkeys(kept)), list(dict.fromkeys(others))
