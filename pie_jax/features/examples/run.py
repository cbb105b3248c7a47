"""One pass over a corpus for all features at once: the library's entry to examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pie_jax.errors import InputError
from pie_jax.features.activations import FeatureReader
from pie_jax.features.examples.assemble import finish
from pie_jax.features.examples.checkpoint import load_state
from pie_jax.features.examples.collector import Collector, merge
from pie_jax.features.examples.corpus_pass import CorpusPass, Progress
from pie_jax.features.examples.folder import (
    check_run,
    complete,
    describe,
    is_finished,
    make_folder,
    state_path,
)
from pie_jax.features.examples.options import ExampleOptions
from pie_jax.features.examples.table import load_examples, save_examples
from pie_jax.features.neighbours import nearest_decoders
from pie_jax.features.promoted_file import save_promoted
from pie_jax.features.records import FeatureExamples, FeatureKey
from pie_jax.files.corpus.documents import Corpus, FileCorpus
from pie_jax.models.loader import LanguageModel
from pie_jax.transcoders.store import Transcoder

_SAVE_EVERY = 100


def collect_examples(
    model: LanguageModel,
    transcoder: Transcoder,
    keys: Sequence[FeatureKey],
    corpus: Corpus | Sequence[str | Path],
    options: ExampleOptions | None = None,
    *,
    out: str | Path | None = None,
    progress: Progress | None = None,
    save_every: int = _SAVE_EVERY,
) -> list[FeatureExamples]:
    """Find what makes features fire, in one pass over a corpus (files, or a `Corpus`).

    Features that never fire come back with no windows. With `out`, the state is saved there every
    `save_every` batches and the results at the end; repeating the call resumes, or reads the
    results. Raises `InputError` for a corpus or features that cannot be used.
    """
    found = collect_shard(
        model,
        transcoder,
        keys,
        corpus,
        options,
        out=out,
        progress=progress,
        save_every=save_every,
    )
    assert found is not None  # the only shard
    return found


def collect_shard(
    model: LanguageModel,
    transcoder: Transcoder,
    keys: Sequence[FeatureKey],
    corpus: Corpus | Sequence[str | Path],
    options: ExampleOptions | None = None,
    *,
    shard: tuple[int, int] = (0, 1),
    out: str | Path | None = None,
    progress: Progress | None = None,
    save_every: int = _SAVE_EVERY,
) -> list[FeatureExamples] | None:
    """Do part i of n of a pass, `shard=(i, n)`; see `collect_examples`.

    Each part leaves its state in `out`. The call that finds the states of all parts there merges
    them and returns what one pass would have; the others return None.
    """
    options = options or ExampleOptions()
    options.check()
    keys = [FeatureKey(*key) for key in keys]
    _check_shard(shard, out)
    source = FileCorpus(corpus) if isinstance(corpus, Sequence) else corpus
    reader = FeatureReader(model, transcoder, keys)
    one = CorpusPass(
        reader, model.tokenizer, source, options, shard, progress=progress, save_every=save_every
    )
    folder = None if out is None else make_folder(Path(out))
    if folder is not None:
        how = {"corpus": source.fingerprint(), "shards": shard[1], **asdict(options)}
        one.config = describe(model, transcoder, keys, how)
        one.state = state_path(folder, *shard)
        check_run(folder, one.config)
        if is_finished(folder, one.config):
            return load_examples(folder, keys)
    collector = one.collect()
    whole: Collector | None = collector
    if folder is not None and shard[1] > 1:
        whole = _merged(folder, collector, one.config, shard)
    if whole is None:
        return None
    if not whole.windows:
        raise InputError("the corpus holds no text; give other files.")
    nearest = nearest_decoders(transcoder, keys, options.neighbours, progress=progress)
    found = finish(whole, nearest)
    if folder is not None:
        save_examples(folder, found)
        save_promoted(folder, model, transcoder, keys)
        complete(folder, one.config, found, _figures(one, whole))
    return found


def _check_shard(shard: tuple[int, int], out: str | Path | None) -> None:
    part, parts = shard
    if not 0 <= part < parts:
        raise InputError(f"shard {part}/{parts} is none of 0/{parts} to {parts - 1}/{parts}.")
    if parts > 1 and out is None:
        raise InputError("a shard of a pass needs a folder to leave its state in.")


def _merged(
    folder: Path, own: Collector, config: dict[str, Any], shard: tuple[int, int]
) -> Collector | None:
    """Return all shards' collectors as one, or None while one is not done."""
    whole = own
    for part in set(range(shard[1])) - {shard[0]}:
        path = state_path(folder, part, shard[1])
        other = Collector(own.keys, own.options)
        if not path.exists() or not load_state(path, other, config)[1]:
            return None
        whole = merge(whole, other)
    return whole


def _figures(one: CorpusPass, whole: Collector) -> dict[str, Any]:
    return {
        "windows": whole.windows,
        "seconds": round(one.seconds, 3),
        "tokens_per_second": round(one.tokens / one.seconds) if one.seconds else None,
    }
