"""Examples from a published store: the files of a corpus pass, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prune_helpers import WORDS, tiny_model, tiny_transcoder
from refusals import refuses
from store_helpers import packed, serving, store_records, write_store
from test_interpret_collector import _same as same

from pie_jax.errors import PieError
from pie_jax.features.activations import FeatureReader
from pie_jax.features.examples.options import ExampleOptions
from pie_jax.features.examples.table import load_examples
from pie_jax.features.promoted_file import load_promoted
from pie_jax.features.records import FeatureExamples, FeatureKey
from pie_jax.features.store import http as store_http
from pie_jax.features.store.collect import CACHE, StoreCollection, collect_from_store, store_of
from pie_jax.features.store.records import as_window
from pie_jax.models.loader import LanguageModel
from pie_jax.transcoders.store import Transcoder

OPTIONS = ExampleOptions(top=5, per_decile=3, inactive=6, batch_size=8)
# The store lacks the last.
ASKED = [FeatureKey(*key) for key in ((0, 3), (1, 0), (0, 23), (2, 7))]


class World:
    """A tiny model, and a store of what its features do on random texts."""

    def __init__(self, folder: Path):
        self.model: LanguageModel = tiny_model(folder / "model", layers=3)
        self.transcoder: Transcoder = tiny_transcoder(self.model, bias=0.0)
        self.features = self.transcoder.config.features
        rng = np.random.default_rng(0)
        # Short, so that features are silent on some.
        texts = [" ".join(rng.choice(WORDS, 2)) for _ in range(200)]
        found = dict.fromkeys(tuple(self.model.tokenizer.encode(text)) for text in texts)
        ids = np.array([*found][:80], np.int32)
        padded = np.pad(ids, ((0, 0), (0, 16 - ids.shape[1]))).reshape(10, 8, 16)
        length = np.full(8, ids.shape[1], np.int32)
        reader = FeatureReader(self.model, self.transcoder, ASKED)
        values = np.concatenate([reader.read(batch, length) for batch in padded])
        self.windows = {
            key: [
                as_window(row, activations[1 : len(row)].tolist())
                for row, activations in zip(ids.tolist(), values[..., place], strict=True)
            ]
            for place, key in enumerate(ASKED)
        }
        # Ten of each, so that others are silent on some.
        some = {
            key: [window for window in self.windows[key][place::8] if window.maximum > 0]
            for place, key in enumerate(ASKED[:-1])
        }
        self.shown = some
        self.records = store_records(some, self.model.tokenizer)
        self.store = write_store(folder / "store", self.records, self.features)

    def collect(self, store: object, out: Path, keys: Any = ASKED, **more: Any) -> StoreCollection:
        """Collect with few windows."""
        weights = (self.model, self.transcoder)
        return collect_from_store(*weights, keys, str(store), OPTIONS, out=out, **more)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Write the store."""
    return World(tmp_path_factory.mktemp("world"))


def _check(world: World, found: list[FeatureExamples]) -> None:
    for one in found:
        if one.key == ASKED[-1]:
            assert (one.top, one.inactive, one.frequency) == ((), (), None)
            continue
        # Ids and activations as the model has them, without the store's value at BOS.
        truth = {window.index: window for window in world.windows[one.key]}
        shown = sorted(world.shown[one.key], key=lambda window: -window.maximum)
        assert [window.index for window in one.top] == [w.index for w in shown[: OPTIONS.top]]
        for window in (*one.top, *one.inactive):
            assert window.tokens.tolist() == truth[window.index].tokens.tolist()
            np.testing.assert_allclose(window.activations, truth[window.index].activations)
        assert one.maximum == pytest.approx(shown[0].maximum)
        assert one.explaining()
        assert one.scoring()
        assert not one.for_explaining & one.for_scoring
        silent = {
            window.index
            for key in world.shown
            for window in world.shown[key]
            if truth[window.index].maximum == 0
        }
        assert silent
        assert len(one.inactive) == min(OPTIONS.inactive, len(silent))
        assert silent >= {window.index for window in one.inactive}


def test_a_server_leads_to_the_files_of_a_corpus_pass(world: World, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with serving(world.store) as server:
        done = world.collect(server.address, out)
        _check(world, done.examples)
        assert done.missing == [ASKED[-1]]
        assert (done.failed, done.unreadable) == ({}, 0)
        assert store_of(out) == server.address
        asked = sum(server.log.values())
        again = world.collect(server.address, out)
        assert sum(server.log.values()) == asked
    same(again.examples, done.examples)
    same(load_examples(out), done.examples)
    assert list(load_promoted(out)) == ASKED
    names = sorted(path.name for path in out.iterdir())
    assert names == ["examples.json", "examples.parquet", "promoted.parquet"]
    record = json.loads((out / "examples.json").read_text())
    assert record["missing"] == [list(ASKED[-1])]
    # Another store in the same folder.
    refuses(lambda: world.collect(world.store, out), "store", "examples.json")


def test_what_failed_is_tried_again(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_http, "_FIRST_WAIT", 0.01)
    out, keys = tmp_path / "out", ASKED[:2]
    whole = world.collect(world.store, tmp_path / "whole", keys).examples
    broken = f"/features/layer_{ASKED[0].layer}.bin"
    with serving(world.store) as server:
        server.faults = {broken: [503] * 2}
        first = world.collect(server.address, out, keys, retries=0, concurrency=1)
        assert list(first.failed) == [ASKED[0]]
        assert first.examples[0].top == ()
        assert (out / CACHE).exists()
        record = json.loads((out / "examples.json").read_text())
        assert record["failed"] == [[*ASKED[0], first.failed[ASKED[0]]]]
        server.faults = {}
        server.log.clear()
        second = world.collect(server.address, out, keys)
        # Only what was not there yet.
        assert [name.split()[0] for name in server.log] == [broken]
    assert second.failed == {}
    assert not (out / CACHE).exists()
    same(second.examples, whole)


def test_stores_that_cannot_be_used(world: World, tmp_path: Path) -> None:
    def collect(name: str, records: dict[tuple[int, int], bytes]) -> Any:
        store = write_store(tmp_path / name, records, world.features)
        return lambda: world.collect(store, tmp_path / f"{name}-out", ASKED[:2])

    one, *others = ASKED
    foreign = {"examples_quantiles": [{"quantile_name": "a", "examples": []}]}
    foreign["examples_quantiles"][0]["examples"] = [  # type: ignore[index]
        {"tokens": ["no such token"], "tokens_acts_list": [1.0]}
    ]
    refuses(collect("words", {tuple(one): packed(foreign)}), "tokens")
    refuses(collect("empty", {tuple(others[-1]): packed(foreign)}), "no windows", "--corpus")
    refuses(collect("broken", {tuple(one): b"123456789"}), "repeat", kind=PieError)
    # A window on which the feature is silent.
    silent = next(window for window in world.windows[one] if window.maximum == 0)
    words = [world.model.tokenizer.token(int(index)) for index in silent.tokens[1:]]
    wrong = {"tokens": words, "tokens_acts_list": [1.0] * len(words)}
    foreign["examples_quantiles"][0]["examples"] = [wrong]  # type: ignore[index]
    refuses(collect("other", {tuple(one): packed(foreign)}), "another transcoder's")
