"""The next batch is prepared while this one is computed, and nothing else changes."""

from __future__ import annotations

import threading
import weakref
from contextlib import closing
from pathlib import Path

import jax
import pytest
from prune_helpers import tiny_model, tiny_pairs, tiny_transcoder

import pie_jax
from pie_jax.errors import InputError
from pie_jax.prune import run as run_module
from pie_jax.prune.batch.pairs import PairBatch
from pie_jax.prune.batch.prefetch import prepared
from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.options import PruneOptions
from pie_jax.prune.results.tables import PruneResult
from pie_jax.prune.step import Pruner

# Long enough never to be reached.
PATIENCE = 60
OPTIONS = PruneOptions(methods=("fap",), budgets=(4,), batch_size=2)
PAIRS = tiny_pairs([16, 15, 16, 15, 16], seed=3)


class Result:
    """What was read, in `ALIVE` as long as anybody keeps it."""

    def __init__(self, item: int):
        self.item = item
        ALIVE.add(self)


ALIVE: weakref.WeakSet[Result] = weakref.WeakSet()


class Reader:
    """A slow reader: each item waits until it is let through."""

    def __init__(self, count: int):
        self.started = [threading.Event() for _ in range(count)]
        self.let = [threading.Event() for _ in range(count)]
        self.threads: set[str] = set()
        self.most = 0

    def read(self, item: int) -> Result:
        self.threads.add(threading.current_thread().name)
        self.started[item].set()
        assert self.let[item].wait(PATIENCE)
        result = Result(item)
        self.most = max(self.most, len(ALIVE))
        return result

    def begun(self) -> list[int]:
        return [item for item, started in enumerate(self.started) if started.is_set()]


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("prepare")]


def test_the_next_item_is_read_while_this_one_is_used():
    """It starts before this one is done with, and the one after it does not."""
    reader = Reader(4)
    reader.let[0].set()
    seen = []
    with closing(prepared(reader.read, range(4))) as ready:
        for item in range(4):
            taken = [next(ready)]
            if item < 3:
                assert reader.started[item + 1].wait(PATIENCE)
                assert reader.begun() == list(range(item + 2))
                # This one is still in use, and the next one is not through yet.
                assert [one.item for one in ALIVE] == [item]
                reader.let[item + 1].set()
            seen.append(taken.pop().item)
    assert seen == [0, 1, 2, 3]
    assert all(name.startswith("prepare") for name in reader.threads)
    assert reader.most <= 2
    assert not ALIVE
    assert not workers()


def test_without_ahead_everything_is_read_when_asked_for():
    reader = Reader(3)
    for let in reader.let:
        let.set()
    ready = prepared(reader.read, range(3), ahead=False)
    assert reader.begun() == []
    assert next(ready).item == 0
    assert reader.begun() == [0]
    assert [one.item for one in ready] == [1, 2]
    assert reader.threads == {threading.current_thread().name}


def test_an_error_comes_where_its_result_would_have():
    error = InputError("row 2 is broken.")

    def read(item: int) -> int:
        if item == 2:
            raise error
        return item

    ready = prepared(read, range(4))
    assert [next(ready), next(ready)] == [0, 1]
    with pytest.raises(InputError) as caught:
        next(ready)
    assert caught.value is error
    assert list(ready) == []
    assert not workers()


def test_an_interrupt_ends_the_reader():
    """What is under way is finished, what follows is not begun."""
    reader = Reader(4)
    for let in reader.let:
        let.set()

    def work() -> None:
        with closing(prepared(reader.read, range(4))) as ready:
            next(ready)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reader.begun() == [0, 1]
    assert not workers()


def test_the_reader_uses_the_callers_device():
    device = jax.devices()[1]
    with jax.default_device(device):
        ready = prepared(lambda item: jax.numpy.ones(item).devices(), (2, 3))
        assert list(ready) == [{device}, {device}]


def prune(folder: Path, out: Path | None = None) -> PruneResult:
    model = tiny_model(folder / "model")
    return pie_jax.prune(model, tiny_transcoder(model), PAIRS, OPTIONS, out=out)


def test_results_are_the_same_with_and_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Bit for bit, and the record says how long the run waited."""
    names = []
    prepare = Pruner.prepare

    def named(self: Pruner, batch: PairBatch) -> BatchEvaluator:
        names.append(threading.current_thread().name)
        return prepare(self, batch)

    monkeypatch.setattr(Pruner, "prepare", named)
    ahead = prune(tmp_path)
    assert len(names) == 3
    assert all(name.startswith("prepare") for name in names)
    monkeypatch.setattr(run_module, "on_one_device", lambda _: False)
    names.clear()
    plain = prune(tmp_path)
    assert set(names) == {threading.current_thread().name}
    for name, table in ahead.tables().items():
        assert table.equals(plain.tables()[name])
    stages = {"encode", "decoder rows", "next batch", "method fap", "behaviour"}
    assert set(ahead.record["seconds"]) == set(plain.record["seconds"]) == stages
    assert ahead.record["seconds"]["encode"] > 0


def test_what_is_done_before_an_error_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "out"
    prepare = Pruner.prepare

    def broken(self: Pruner, batch: PairBatch) -> BatchEvaluator:
        if batch.rows[0] == 2:
            raise InputError("decoder of layer 1 holds NaN.")
        return prepare(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Pruner, "prepare", broken)
        with pytest.raises(InputError, match="layer 1 holds NaN"):
            prune(tmp_path, out)
    assert [path.name for path in (out / "parts").iterdir()] == ["batch-000000.npz"]
    resumed = prune(tmp_path, out)
    for name, table in prune(tmp_path).tables().items():
        assert table.equals(resumed.tables()[name])


def test_models_on_several_devices_are_not_read_ahead(tmp_path: Path):
    """There, two threads could start programs in another order on each device."""
    model = tiny_model(tmp_path / "model")
    assert run_module.on_one_device(model)
    mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    model.transformer.embedding[...] = jax.device_put(model.transformer.embedding[...], everywhere)
    assert not run_module.on_one_device(model)
