"""Whole passes with a tiny model: shards, resuming, a real kill, and what is written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from examples_child import KEYS, OPTIONS, collect, write_corpus
from prune_helpers import tiny_model, tiny_transcoder
from refusals import refuses
from test_interpret_collector import _same

from pie_jax.errors import PieError
from pie_jax.features.activations import FeatureReader
from pie_jax.features.examples.folder import RECORD
from pie_jax.features.examples.run import collect_examples, collect_shard
from pie_jax.features.examples.table import load_examples
from pie_jax.features.neighbours import nearest_decoders
from pie_jax.features.promoted import promoted_tokens
from pie_jax.features.promoted_file import load_promoted
from pie_jax.features.records import FeatureExamples, FeatureKey
from pie_jax.files.corpus.documents import TextCorpus
from pie_jax.transcoders.store import Transcoder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a corpus."""
    return write_corpus(tmp_path_factory.mktemp("corpus") / "corpus.txt")


@cache
def _whole(corpus: Path) -> list[FeatureExamples]:
    return collect(corpus.parent, corpus, out=None)


class _Stop(Exception):
    pass


def _stopper(after: int) -> Any:
    """Return a progress callback that ends the pass as Ctrl-C would."""
    calls = iter(range(10**6))

    def progress(done: int, total: int, unit: str) -> None:
        assert "tokens/s" in unit
        assert 0 <= done <= max(total, 1)
        if next(calls) + 1 == after:
            raise _Stop

    return progress


def test_finds_what_each_window_has_alone(corpus: Path) -> None:
    found = _whole(corpus)
    model = tiny_model(corpus.parent / "model", layers=3)
    reader = FeatureReader(model, tiny_transcoder(model, bias=0.0), KEYS)
    assert [one.key for one in found] == KEYS
    for place, one in enumerate(found[1:], start=1):
        assert one.frequency is not None
        assert 0.01 < one.frequency < 1
        for window in (*one.top, *one.deciles[0], *one.inactive):
            size = len(window.tokens)
            padded = np.pad(window.tokens, (0, OPTIONS.window - size))[None]
            alone = reader.read(padded, np.array([size], np.int32))[0, :size, place]
            np.testing.assert_allclose(window.activations, alone, atol=1e-5)
            assert window.tokens[0] == 1
            assert window.activations[0] == 0


def test_a_feature_that_never_fires_is_listed(corpus: Path, tmp_path: Path) -> None:
    found = collect(tmp_path, corpus)
    assert (found[0].tokens_active, found[0].top) == (0, ())
    record = json.loads((tmp_path / "out" / RECORD).read_text())
    assert record["never_fired"] == [list(KEYS[0])]
    assert record["tokens"] == found[0].tokens_seen
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "examples.json",
        "examples.parquet",
        "promoted.parquet",
    ]
    _same(load_examples(tmp_path / "out"), found)
    _same(load_examples(tmp_path / "out", [KEYS[2], KEYS[0]]), [found[2], found[0]])
    refuses(lambda: load_examples(tmp_path / "out", [FeatureKey(9, 1)]), "9", "1")
    refuses(lambda: load_examples(tmp_path), tmp_path)
    # A second call reads what is there.
    _same(collect(tmp_path, corpus, progress=_stopper(1)), found)


@pytest.mark.parametrize("after", [1, 17])
def test_a_resumed_pass_equals_an_uninterrupted_one(
    corpus: Path, tmp_path: Path, after: int
) -> None:
    with pytest.raises(_Stop):
        collect(tmp_path, corpus, progress=_stopper(after + 1), save_every=after)
    assert (tmp_path / "out" / "examples-state-0-of-1.npz").exists()
    _same(collect(tmp_path, corpus), _whole(corpus))


def test_survives_kill_9(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_bytes(corpus.read_bytes())
    cache_dir = jax.config.jax_compilation_cache_dir or str(tmp_path / "jax")
    command = [sys.executable, str(Path(__file__).parents[1] / "helpers" / "examples_child.py")]
    state = tmp_path / "out" / "examples-state-0-of-1.npz"
    child = subprocess.Popen([*command, str(tmp_path), cache_dir])
    # In the midst of its work.
    while child.poll() is None and not state.exists():
        time.sleep(0.01)
    time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert state.exists()
    assert not (tmp_path / "out" / RECORD).exists()
    _same(collect(tmp_path, tmp_path / "corpus.txt"), _whole(corpus))


def _shard(tmp_path: Path, corpus: Path, shard: tuple[int, int], out: str = "out") -> Any:
    model = tiny_model(tmp_path / "model", layers=3)
    transcoder = tiny_transcoder(model, bias=0.0)
    weight, bias, _ = transcoder.encoder_arrays[2]
    weight[5], bias[5] = 0, -1
    out_folder = None if not out else tmp_path / out
    return collect_shard(model, transcoder, KEYS, [corpus], OPTIONS, shard=shard, out=out_folder)


def test_merged_shards_equal_one_pass(corpus: Path, tmp_path: Path) -> None:
    assert _shard(tmp_path, corpus, (1, 2)) is None
    merged = _shard(tmp_path, corpus, (0, 2))
    _same(merged, _whole(corpus))
    _same(load_examples(tmp_path / "out"), merged)
    assert not list((tmp_path / "out").glob("*.npz"))
    refuses(lambda: _shard(tmp_path, corpus, (2, 2)), "2/2")
    refuses(lambda: _shard(tmp_path, corpus, (0, 2), out=""), "folder")


def test_another_pass_in_the_folder_is_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(_Stop):
        collect(tmp_path, corpus, progress=_stopper(3))
    other = write_corpus(tmp_path / "other.txt", 30)
    refuses(lambda: collect(tmp_path, other), "corpus", "examples-state-0-of-1.npz")
    collect(tmp_path, corpus)
    refuses(lambda: collect(tmp_path, other), "corpus", RECORD)
    (tmp_path / "out" / "run.json").write_text('{"config": {"sha256": {"model": "x"}}}')
    refuses(lambda: collect(tmp_path, corpus), "run.json")
    other_run = {"config": {"sha256": {"model": {"model.safetensors": "x"}, "transcoder": {}}}}
    (tmp_path / "out" / "run.json").write_text(json.dumps(other_run))
    refuses(lambda: collect(tmp_path, corpus), "another model")


def test_a_broken_state_is_named(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "examples-state-0-of-1.npz").write_bytes(b"PK\x03\x04 no")
    refuses(lambda: collect(tmp_path, corpus), "examples-state-0-of-1.npz")


def _tiny(tmp_path: Path, **settings: Any) -> tuple[Any, Transcoder]:
    model = tiny_model(tmp_path / "model", layers=3)
    return model, tiny_transcoder(model, bias=0.0, **settings)


def test_an_empty_corpus_is_refused(tmp_path: Path) -> None:
    model, transcoder = _tiny(tmp_path)
    (tmp_path / "empty.txt").write_text("\n\n  \n")
    for corpus in ([tmp_path / "empty.txt"], TextCorpus([" ", ""])):
        refuses(lambda corpus=corpus: collect_examples(model, transcoder, KEYS, corpus), "corpus")


def test_activations_that_are_not_finite_are_an_error(tmp_path: Path) -> None:
    model, transcoder = _tiny(tmp_path)
    transcoder.encoder_arrays[0].weight[3] = 3e38
    call = lambda: collect_examples(  # noqa: E731
        model, transcoder, KEYS, TextCorpus(["w3 w4 w5"]), OPTIONS
    )
    refuses(call, "window 0", kind=PieError)


def test_settings_that_cannot_be_are_named(tmp_path: Path) -> None:
    model, transcoder = _tiny(tmp_path)
    for name in ("window", "top", "per_decile", "inactive", "histogram", "batch_size"):
        options = OPTIONS.__class__(**{name: 0})
        refuses(
            lambda options=options: collect_examples(
                model, transcoder, KEYS, TextCorpus(["w3"]), options
            ),
            name,
        )


@pytest.mark.parametrize("block", [1, 10**9])
def test_neighbours_are_those_of_a_slow_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr("pie_jax.features.neighbours._BLOCK", block)
    _, transcoder = _tiny(tmp_path)
    transcoder.decoder_maps[0][7] = 0
    transcoder.decoder_maps[0][3] = 2 * transcoder.decoder_maps[0][9]
    keys = [FeatureKey(0, 3), FeatureKey(2, 5), FeatureKey(0, 7)]
    found = nearest_decoders(transcoder, keys, 5)
    for layer, feature in keys[:2]:
        flat = transcoder.decoder_maps[layer].reshape(24, -1).astype(np.float64)
        cosine = {}
        for other, row in enumerate(flat):
            norm = np.linalg.norm(row) * np.linalg.norm(flat[feature])
            if other != feature and norm > 0:
                cosine[other] = float(row @ flat[feature] / norm)
        expected = sorted(cosine.items(), key=lambda pair: -pair[1])[:5]
        got = found[FeatureKey(layer, feature)]
        assert [name for name, _ in got] == [name for name, _ in expected]
        np.testing.assert_allclose([v for _, v in got], [v for _, v in expected], atol=1e-6)
    assert found[keys[0]][0] == (9, pytest.approx(1.0))
    assert found[keys[2]] == ()
    assert nearest_decoders(transcoder, keys, 0) == dict.fromkeys(keys, ())


def test_promoted_tokens_are_recorded(corpus: Path, tmp_path: Path) -> None:
    collect(tmp_path, corpus)
    model, transcoder = _tiny(tmp_path)
    found = load_promoted(tmp_path / "out")
    assert list(found) == KEYS
    for key in KEYS:
        total, *targets = found[key]
        assert total == promoted_tokens(model, transcoder, [key])[0]
        assert targets == promoted_tokens(model, transcoder, [key], per_target=True)
        assert [one.target for one in targets] == list(range(key.layer, 3))
