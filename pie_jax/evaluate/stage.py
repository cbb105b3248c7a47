"""Stage III on a results folder: score its explanations beside those of the baselines."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pie_jax.errors import InputError
from pie_jax.evaluate.presets import get_preset
from pie_jax.evaluate.run import Progress, evaluate_async
from pie_jax.evaluate.scorers import DEFAULT_SCORERS, SCORERS, Scorer, get_scorers
from pie_jax.evaluate.steering import Steerer
from pie_jax.evaluate.subject import Shared
from pie_jax.features.activations import max_activations
from pie_jax.features.baselines import KEPT, SHUFFLED, Trial, own, shuffled
from pie_jax.features.corpus.sample import Activations, load_sample, read_natural
from pie_jax.features.examples.folder import RECORD
from pie_jax.features.examples.table import EXAMPLES
from pie_jax.features.groups import Chosen, feature_groups
from pie_jax.features.records import Explanation, FeatureExamples, FeatureKey
from pie_jax.features.store.collect import store_of
from pie_jax.features.texts import ShowsTokens
from pie_jax.features.weights import load_tokenizer_of, load_weights
from pie_jax.files.stage_record import load_stages, save_stage
from pie_jax.interpret.run import load_explanations
from pie_jax.interpret.stage import dry_store, examples_of, with_chats
from pie_jax.judges import make_judge
from pie_jax.llm import Estimate
from pie_jax.llm.dry_run import DryChat
from pie_jax.llm.roles import Roles
from pie_jax.llm.sending.waiting import wait_for
from pie_jax.models.loader import LanguageModel
from pie_jax.prune.results.resumable_folder import load_result
from pie_jax.prune.results.tables import PruneResult
from pie_jax.transcoders.store import Transcoder

STEERING = "steering-faithfulness"


@dataclass(frozen=True)
class _Work:
    """What is scored: groups of trials and their features' examples."""

    result: PruneResult
    groups: dict[str, list[Trial]]
    examples: dict[FeatureKey, FeatureExamples]
    texts: list[str]
    record: dict[str, Any]


def evaluate_run(
    folder: str | Path,
    roles: Roles | None = None,
    *,
    preset: str = "default",
    scorers: Sequence[str] = DEFAULT_SCORERS,
    model: LanguageModel | str | None = None,
    transcoder: Transcoder | str | None = None,
    progress: Progress | None = None,
) -> pa.Table:
    """Score a run's explanations, into evaluation.parquet of its folder; repeating resumes.

    Features and explainer are those of the last `interpret_run`. Raises `InputError` if there
    are no explanations, `Stopped` if an LLM's server, key or budget ends it.
    """
    counts, started, roles = get_preset(preset), time.monotonic(), roles or Roles()
    work = _work(folder, get_scorers(scorers))
    language_model, clt = load_weights(work.result, model, transcoder)
    tokenizer = language_model.tokenizer

    def activations(texts: Sequence[str], keys: Sequence[FeatureKey]) -> np.ndarray:
        return max_activations(language_model, clt, texts, keys)

    natural = read_natural(work.texts, list(work.examples), tokenizer, activations)
    steerer = Steerer(language_model, clt) if STEERING in scorers else None

    async def score(_: Any, chat: Any) -> pa.Table:
        judge = make_judge(roles.judge, tokenizer, chat)
        shared = Shared(
            judge, tokenizer, activations, natural, counts, steerer, seed=work.record["seed"]
        )
        return await evaluate_async(
            work.groups,
            list(work.examples.values()),
            shared,
            scorers=scorers,
            out=folder,
            progress=progress,
        )

    table, calls = with_chats(folder, None, roles.judge_config, score)
    calls.require_some(table["value"].to_pylist())
    record = {
        **work.record,
        "judge": roles.judge,
        "judge_model": roles.judge_config.model if roles.judge_config else None,
        "preset": preset,
        "scorers": list(scorers),
        "seconds": round(time.monotonic() - started, 1),
        **calls.record(),
    }
    save_stage(folder, "evaluate", record)
    return table


def estimate_evaluation(
    folder: str | Path,
    roles: Roles | None = None,
    *,
    preset: str = "default",
    scorers: Sequence[str] = DEFAULT_SCORERS,
    model: str | None = None,
) -> Estimate:
    """Return the calls and tokens that `evaluate_run` would take now; nothing is sent or written.

    No model is run, so the choice of rated texts, and with it their tokens, is approximate. Calls
    for steering are not included.
    """
    counts, roles = get_preset(preset), roles or Roles()
    work = _work(folder, get_scorers(scorers))
    if roles.judge_config is None:
        return Estimate()
    tokenizer: ShowsTokens = load_tokenizer_of(work.result, model)
    silent: Activations = lambda texts, keys: np.zeros((len(texts), len(keys)))  # noqa: E731
    natural = read_natural(work.texts, list(work.examples), tokenizer, silent)
    config = roles.judge_config

    async def count() -> Estimate:
        with dry_store(folder) as store:
            chat = DryChat(config, store)
            shared = Shared(
                make_judge(roles.judge, tokenizer, chat),
                tokenizer,
                silent,
                natural,
                counts,
                seed=work.record["seed"],
            )
            examples = list(work.examples.values())
            await evaluate_async(work.groups, examples, shared, scorers=scorers)
        return chat.total

    return wait_for(count())


def trials(
    groups: dict[str, list[FeatureKey]], explanations: Sequence[Explanation], seed: int
) -> dict[str, list[Trial]]:
    """Return each group's features with their explanations, and the kept ones with others'."""
    by_key = {one.key: one for one in explanations}
    members = {
        group: [by_key[key] for key in keys if key in by_key] for group, keys in groups.items()
    }
    others = [one for group in members if group != KEPT for one in members[group]]
    pool = list({one.key: one for one in others}.values())
    out = {group: own(found) for group, found in members.items()}
    return {**out, SHUFFLED: shuffled(members[KEPT], pool, seed)}


def _corpus_texts(folder: str | Path, scorers: Sequence[Scorer]) -> list[str]:
    """Return the random corpus texts of a folder; examples from a store have none."""
    store = store_of(folder)
    if store is None:
        return load_sample(folder)
    if any(scorer.corpus for scorer in scorers):
        others = ",".join(name for name, one in SCORERS.items() if not one.corpus)
        needing = ", ".join(scorer.name for scorer in scorers if scorer.corpus)
        raise InputError(
            f"--scorers {needing}: need random texts of a corpus, which examples from a store "
            f"({store}) do not have; name others (--scorers {others}), or delete {RECORD} and "
            f"{EXAMPLES} and run `pie-jax examples` with --corpus."
        )
    return []


def _work(folder: str | Path, scorers: Sequence[Scorer]) -> _Work:
    interpreted = load_stages(folder).get("interpret")
    result = load_result(folder)
    if interpreted is None:
        raise InputError(f"{folder}: no explanations; run `pie-jax interpret` first.")
    chosen = Chosen.of_record(interpreted)
    explainer, model = interpreted["explainer"], interpreted["explainer_model"]
    groups = feature_groups(result, chosen)
    examples = examples_of(folder, groups)
    explanations = load_explanations(folder, explainer, model)
    found = {one.key for one in explanations}
    missing = [key for key in groups[KEPT] if key not in found]
    if missing:
        raise InputError(
            f"{folder}: holds no explanation of feature {missing[0].feature} in layer "
            f"{missing[0].layer}; run `pie-jax interpret` with the same options."
        )
    record = {"explainer": explainer, "explainer_model": model, **asdict(chosen)}
    return _Work(
        result,
        trials(groups, explanations, chosen.seed),
        examples,
        _corpus_texts(folder, scorers),
        record,
    )
