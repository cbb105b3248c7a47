"""Examples of features from a published store, in the files that a pass over a corpus writes.

Shapes: n features, E texts.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pie_jax.errors import InputError, PieError
from pie_jax.features.activations import FeatureReader
from pie_jax.features.examples.corpus_pass import Progress
from pie_jax.features.examples.folder import (
    RECORD,
    check_run,
    describe,
    is_finished,
    load_record,
    make_folder,
    save_record,
)
from pie_jax.features.examples.hashing import feature_seeds, mix
from pie_jax.features.examples.options import ExampleOptions
from pie_jax.features.examples.table import load_examples, save_examples
from pie_jax.features.neighbours import Found, nearest_decoders
from pie_jax.features.promoted_file import save_promoted
from pie_jax.features.records import FeatureExamples, FeatureKey, Window
from pie_jax.features.store.reader import StoreResult, read_store
from pie_jax.features.store.records import as_examples, as_window
from pie_jax.features.texts import TokenText
from pie_jax.models.loader import LanguageModel
from pie_jax.transcoders.store import Transcoder

CACHE = "store-cache"
# Texts on which the run's own model is asked which features fire, and tokens of each.
_POOL, _TOKENS = 1000, 256
# What a store cannot decide: it has texts of its own.
_OF_CORPUS = ("window", "histogram", "max_windows", "batch_size")
# A part of a character; its token cannot be told from another's.
_BROKEN = "\ufffd"


@dataclass(frozen=True)
class StoreCollection:
    """Examples from a store. `missing` features are not in it, `failed` ones could not be read (key
    to the reason): both have no windows. `unreadable` windows hold what is no token of the
    model."""

    examples: list[FeatureExamples]
    missing: list[FeatureKey]
    failed: dict[FeatureKey, str]
    unreadable: int


def store_of(folder: str | Path) -> str | None:
    """Return the store that a folder's examples come from, None where it is a corpus."""
    record = load_record(folder)
    return None if record is None else record["config"].get("store")


def collect_from_store(
    model: LanguageModel,
    transcoder: Transcoder,
    keys: Sequence[FeatureKey],
    store: str | Path,
    options: ExampleOptions | None = None,
    *,
    out: str | Path,
    progress: Progress | None = None,
    **http: Any,
) -> StoreCollection:
    """Write into `out` what a store, an address or a folder, has of features.

    Non-activating windows are texts of other features on which the run's own transcoder leaves
    the feature at 0. Repeating the call reads the results, and tries again what had failed; `http`
    goes to `read_store`. Raises `InputError` for a store of another transcoder, `PieError` where
    nothing could be read.
    """
    options = options or ExampleOptions()
    options.check()
    keys = [FeatureKey(*key) for key in keys]
    reader = FeatureReader(model, transcoder, keys)
    folder, source = make_folder(Path(out)), _source(store)
    asked = {name: value for name, value in asdict(options).items() if name not in _OF_CORPUS}
    config = describe(model, transcoder, keys, {"store": source, **asked})
    check_run(folder, config)
    if is_finished(folder, config):
        done = _load(folder, keys)
        if not done.failed:
            return done
    cache = folder / CACHE
    read = read_store(source, keys, cache=cache, **http)
    windows, unreadable = _windows(read, model)
    _require_some(read, windows, source, unreadable)
    silent = _silent(reader, windows, options, source)
    nearest = nearest_decoders(transcoder, keys, options.neighbours, progress=progress)
    examples = _examples(read, keys, windows, silent, nearest, options)
    save_examples(folder, examples)
    save_promoted(folder, model, transcoder, keys)
    failed = [[*key, reason] for key, reason in read.failed.items()]
    figures = {"missing": read.missing, "failed": failed, "unreadable_windows": unreadable}
    save_record(folder, config, len(examples), figures)
    if not failed:
        shutil.rmtree(cache, ignore_errors=True)
    return StoreCollection(examples, read.missing, read.failed, unreadable)


def _source(store: str | Path) -> str:
    text = str(store)
    web = text.startswith(("http://", "https://"))
    return text.rstrip("/") if web else str(Path(text).expanduser().resolve())


def _load(folder: Path, keys: list[FeatureKey]) -> StoreCollection:
    record = load_record(folder)
    assert record is not None
    try:
        missing = [FeatureKey(*key) for key in record["missing"]]
        failed = {FeatureKey(layer, feature): why for layer, feature, why in record["failed"]}
        unreadable = record["unreadable_windows"]
    except (KeyError, TypeError, ValueError) as error:
        path = folder / RECORD
        raise InputError(f"{path}: not a record of examples from a store; delete it.") from error
    return StoreCollection(load_examples(folder, keys), missing, failed, unreadable)


def _windows(read: StoreResult, model: LanguageModel) -> tuple[dict[FeatureKey, list[Window]], int]:
    """Return each record's windows as ids, and how many are not the model's tokens."""
    ids, out, unreadable = _TokenIds(model), {}, 0
    for record in read.records:
        found = [ids.window(text) for text in record.texts if text.tokens]
        out[record.key] = [window for window in found if window is not None]
        unreadable += len(found) - len(out[record.key])
    return out, unreadable


class _TokenIds:
    """The model's tokens by their text: a text stands for the lowest id that reads so."""

    def __init__(self, model: LanguageModel):
        tokenizer = model.tokenizer
        first = tokenizer.first_token()
        if first is None:
            raise InputError(
                f"{tokenizer.source}: no tokenizer with a first token, so that a store's texts "
                "cannot be read; name a model folder that has one with --model."
            )
        self._bos = first.id
        ids = reversed(range(model.config.vocab_size))
        self._ids = {tokenizer.token(index): index for index in ids}

    def window(self, text: TokenText) -> Window | None:
        """Return a text as ids, None where one of its tokens is not the model's."""
        if any(_BROKEN in token or token not in self._ids for token in text.tokens):
            return None
        return as_window([self._bos, *(self._ids[t] for t in text.tokens)], text.activations)


def _require_some(
    read: StoreResult, windows: dict[FeatureKey, list[Window]], source: str, unreadable: int
) -> None:
    if any(windows.values()):
        return
    if read.failed:
        raise PieError(
            f"{source}: no feature could be read ({next(iter(read.failed.values()))}); repeat the "
            "command."
        )
    if unreadable:
        raise InputError(
            f"{source}: its texts are not made of this model's tokens; name the store of the run's "
            "own transcoder."
        )
    raise InputError(
        f"{source}: has no windows of any of the {len(read.missing) + len(read.records)} features; "
        "name another store, or give texts with --corpus."
    )


def _silent(
    reader: FeatureReader,
    windows: dict[FeatureKey, list[Window]],
    options: ExampleOptions,
    source: str,
) -> dict[FeatureKey, list[Window]]:
    """Return texts of the store on which the run's own transcoder leaves a feature at 0."""
    pool = _pool(windows, options.seed)
    rows = [window.tokens[:_TOKENS].tolist() for window in pool]
    activations = reader.max_of_ids(rows, batch_size=options.batch_size)
    columns = dict(zip(reader.keys, activations.T, strict=True))
    _require_same_features(pool, windows, columns, source)
    out = {}
    for key, own in windows.items():
        known = {window.index for window in own if window.maximum > 0}
        out[key] = [
            as_window(row, [0.0] * (len(row) - 1))
            for row, window, value in zip(rows, pool, columns[key], strict=True)
            if value == 0 and window.index not in known
        ]
    return out


def _pool(windows: dict[FeatureKey, list[Window]], seed: int) -> list[Window]:
    """Return every feature's strongest window, and others drawn by hash."""
    first = {w.index: w for w in (_strongest(own) for own in windows.values() if own)}
    others = {w.index: w for own in windows.values() for w in own if w.index not in first}
    own_seed = feature_seeds([FeatureKey(0, 0)], seed)[0]
    order = np.argsort(mix(np.array(list(others), np.uint64) ^ own_seed))
    more = [list(others.values())[at] for at in order[: max(0, _POOL - len(first))]]
    return [*first.values(), *more]


def _strongest(windows: list[Window]) -> Window:
    return min(windows, key=lambda window: (-window.maximum, window.index))


def _require_same_features(
    pool: list[Window],
    windows: dict[FeatureKey, list[Window]],
    columns: dict[FeatureKey, np.ndarray],
    source: str,
) -> None:
    """Raise `InputError` where most features do not fire on what the store shows for them."""
    place = {window.index: row for row, window in enumerate(pool)}
    strongest = {key: _strongest(own) for key, own in windows.items() if own}
    active = {key: window for key, window in strongest.items() if window.maximum > 0}
    fire = sum(columns[key][place[window.index]] > 0 for key, window in active.items())
    if fire < len(active) / 2:
        raise InputError(
            f"{source}: only {fire} of {len(active)} features fire on what the store shows for "
            "them; it is another transcoder's: name the store of the run's own."
        )


def _examples(
    read: StoreResult,
    keys: list[FeatureKey],
    windows: dict[FeatureKey, list[Window]],
    silent: dict[FeatureKey, list[Window]],
    nearest: Found,
    options: ExampleOptions,
) -> list[FeatureExamples]:
    maxima = {record.key: record.maximum for record in read.records}
    out = []
    for key in keys:
        own = windows.get(key, [])
        active = [window for window in own if window.maximum > 0]
        quiet = [window for window in own if window.maximum <= 0]
        inactive = list({one.index: one for one in (*quiet, *silent.get(key, []))}.values())
        found = tuple(nearest.get(key, ()))
        out.append(as_examples(key, maxima.get(key, 0.0), active, inactive, found, options))
    return out
