"""Stage II on a results folder: examples of its features, then their explanations."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pie_jax.errors import InputError, PieError
from pie_jax.features.corpus.sample import sample_windows, save_sample
from pie_jax.features.examples.corpus_pass import Progress
from pie_jax.features.examples.options import ExampleOptions
from pie_jax.features.examples.run import collect_shard
from pie_jax.features.examples.table import load_examples
from pie_jax.features.groups import Chosen, feature_groups, union
from pie_jax.features.promoted_file import load_promoted
from pie_jax.features.records import Explanation, FeatureExamples, FeatureKey
from pie_jax.features.store.collect import StoreCollection, collect_from_store
from pie_jax.features.weights import load_tokenizer_of, load_weights
from pie_jax.files.corpus.documents import Corpus, FileCorpus
from pie_jax.files.stage_record import save_stage
from pie_jax.interpret.explainers import ExplainInputs, ExplainOptions
from pie_jax.interpret.run import interpret_async
from pie_jax.judges import make_judge
from pie_jax.llm import Estimate, LLMClient, LLMConfig, LLMStore
from pie_jax.llm.dry_run import DryChat
from pie_jax.llm.failures import Failures
from pie_jax.llm.roles import LLM, Roles
from pie_jax.llm.sending.waiting import wait_for
from pie_jax.models.loader import LanguageModel
from pie_jax.prune.results.resumable_folder import load_result
from pie_jax.prune.results.tables import PruneResult
from pie_jax.transcoders.store import Transcoder

LLM_STORE = "llm.sqlite"
# Corpus windows kept aside, from which stage III draws what is normal: FADE's 1000, and as many
# again for a second round of ratings.
SAMPLE = 2000


def examples_run(
    folder: str | Path,
    corpus: Corpus | Sequence[str | Path],
    chosen: Chosen | None = None,
    options: ExampleOptions | None = None,
    *,
    shard: tuple[int, int] = (0, 1),
    model: LanguageModel | str | None = None,
    transcoder: Transcoder | str | None = None,
    progress: Progress | None = None,
) -> list[FeatureExamples] | None:
    """Collect examples of a run's features into its folder; None while other shards are missing.

    One pass over the corpus serves all groups of features; windows drawn at random from all of it
    are kept as well. `model` and `transcoder` are the run's own by default; repeating the call
    resumes.
    """
    options = options or ExampleOptions()
    options.check()
    result = load_result(folder)
    keys = union(feature_groups(result, chosen or Chosen()))
    source = FileCorpus(corpus) if isinstance(corpus, Sequence) else corpus
    language_model, clt = load_weights(result, model, transcoder)
    found = collect_shard(
        language_model, clt, keys, source, options, shard=shard, out=folder, progress=progress
    )
    if found is not None:
        texts = sample_windows(
            source,
            language_model.tokenizer,
            SAMPLE,
            window=options.window,
            seed=options.seed,
            most=options.max_windows,
        )
        save_sample(folder, texts)
    return found


def store_examples_run(
    folder: str | Path,
    store: str | Path,
    chosen: Chosen | None = None,
    options: ExampleOptions | None = None,
    *,
    model: LanguageModel | str | None = None,
    transcoder: Transcoder | str | None = None,
    progress: Progress | None = None,
) -> StoreCollection:
    """Collect examples of a run's features from a published store, in place of a corpus.

    Repeating the call tries again what had failed; see `collect_from_store` for errors.
    """
    result = load_result(folder)
    keys = union(feature_groups(result, chosen or Chosen()))
    weights = load_weights(result, model, transcoder)
    return collect_from_store(*weights, keys, store, options, out=folder, progress=progress)


def interpret_run(
    folder: str | Path,
    chosen: Chosen | None = None,
    roles: Roles | None = None,
    *,
    options: ExplainOptions | None = None,
    model: str | None = None,
    progress: Progress | None = None,
) -> list[Explanation]:
    """Explain a run's features, into explanations.jsonl of its folder; repeating resumes.

    Baseline features without examples are left out; `model` names the run's own, of which only
    the tokenizer is read, if it has moved. Raises `InputError` if kept ones have none,
    `Stopped` if an LLM's server, key or budget ends it.
    """
    chosen, roles, started = chosen or Chosen(), roles or Roles(), time.monotonic()
    result, examples = _examples(folder, chosen)
    inputs = _inputs(folder, result, options, model)

    async def explain(chat: Any, judge_chat: Any) -> list[Explanation]:
        judge = make_judge(roles.judge, inputs.tokenizer, judge_chat)
        full = ExplainInputs(inputs.tokenizer, chat, judge, inputs.promoted, inputs.options)
        return await interpret_async(
            examples, full, explainer=roles.explainer, out=folder, progress=progress
        )

    found, calls = with_chats(folder, roles.explainer_config, roles.judge_config, explain)
    calls.require_some(one.text for one in found)
    config = roles.explainer_config
    record = {
        "explainer": roles.explainer,
        "explainer_model": config.model if config else None,
        **asdict(chosen),
        "seconds": round(time.monotonic() - started, 1),
        **calls.record(),
    }
    save_stage(folder, "interpret", record)
    return found


def estimate_interpretation(
    folder: str | Path,
    chosen: Chosen | None = None,
    roles: Roles | None = None,
    *,
    options: ExplainOptions | None = None,
    model: str | None = None,
) -> Estimate:
    """Return the calls and tokens that `interpret_run` would take now; nothing is sent or written.

    Calls that choose among several candidates are included.
    """
    chosen, roles = chosen or Chosen(), roles or Roles()
    result, examples = _examples(folder, chosen)
    inputs = _inputs(folder, result, options, model)
    if roles.explainer != LLM or roles.explainer_config is None:
        return Estimate()
    config = roles.explainer_config

    async def count() -> Estimate:
        with dry_store(folder) as store:
            chat = DryChat(config, store)
            judging = DryChat(roles.judge_config, store) if roles.judge_config else None
            judge = make_judge(roles.judge, inputs.tokenizer, judging)
            full = ExplainInputs(inputs.tokenizer, chat, judge, inputs.promoted, inputs.options)
            await interpret_async(examples, full, explainer=roles.explainer)
        return chat.total + judging.total if judging else chat.total

    return wait_for(count())


@dataclass(frozen=True)
class Calls:
    """What became of a stage's calls: the folder's `usage`, and `failures` by role."""

    usage: list[dict[str, Any]] = field(default_factory=list)
    failures: dict[str, Failures] = field(default_factory=dict)

    def require_some(self, results: Iterable[Any]) -> None:
        """Raise `PieError`, with the commonest reason, where calls failed and nothing came of any
        feature."""
        failed = [found.sentence(name) for name, found in self.failures.items() if found]
        if failed and all(result is None for result in results):
            raise PieError(f"nothing came of any feature: {failed[0]}")

    def record(self) -> dict[str, Any]:
        """Return what stages.json says of them."""
        failed = [row for name, found in self.failures.items() for row in found.record(name)]
        return {"llm_calls": self.usage, "llm_failures": failed}


def with_chats(
    folder: str | Path, explainer: LLMConfig | None, judge: LLMConfig | None, task: Any
) -> tuple[Any, Calls]:
    """Return what `await task(explainer's chat, judge's chat)` gives, and what became of the calls.

    A role without a config has no chat; without any, no store is made.
    """

    async def run() -> tuple[Any, Calls]:
        async with AsyncExitStack() as stack:
            configs = {"explainer": explainer, "judge": judge}
            chats: dict[str, LLMClient | None] = dict.fromkeys(configs)
            if not any(configs.values()):
                return await task(None, None), Calls()
            store = stack.enter_context(LLMStore(Path(folder) / LLM_STORE))
            for name, config in configs.items():
                if config is not None:
                    client = LLMClient(config, store, name=name)
                    chats[name] = await stack.enter_async_context(client)
            found = await task(chats["explainer"], chats["judge"])
            failures = {name: chat.failures for name, chat in chats.items() if chat}
            return found, Calls([asdict(row) for row in store.ledger.summary()], failures)

    return wait_for(run())


class dry_store:
    """The folder's store if there is one, so that a dry run leaves nothing behind."""

    def __init__(self, folder: str | Path):
        path = Path(folder) / LLM_STORE
        self._store = LLMStore(path) if path.exists() else None

    def __enter__(self) -> LLMStore | None:
        return self._store

    def __exit__(self, *_: object) -> None:
        if self._store is not None:
            self._store.close()


def examples_of(
    folder: str | Path, groups: dict[str, list[FeatureKey]]
) -> dict[FeatureKey, FeatureExamples]:
    """Return the examples of the groups' features; kept features must have some."""
    kept, *_ = groups.values()
    found = {one.key: one for one in load_examples(folder)}
    missing = [key for key in kept if key not in found]
    if missing:
        raise InputError(
            f"{folder}: holds no examples of feature {missing[0].feature} in layer "
            f"{missing[0].layer}; run `pie-jax examples` with the same --method and --budget."
        )
    return {key: found[key] for key in union(groups) if key in found}


def _examples(folder: str | Path, chosen: Chosen) -> tuple[PruneResult, list[FeatureExamples]]:
    result = load_result(folder)
    return result, list(examples_of(folder, feature_groups(result, chosen)).values())


def _inputs(
    folder: str | Path, result: PruneResult, options: ExplainOptions | None, model: str | None
) -> ExplainInputs:
    tokenizer = load_tokenizer_of(result, model)
    promoted = {
        key: [token.text for token in entries[0].promoted]
        for key, entries in load_promoted(folder).items()
    }
    return ExplainInputs(tokenizer, promoted=promoted, options=options or ExplainOptions())
