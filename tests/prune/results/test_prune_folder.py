"""A run's folder: resuming after a kill, and folders that are refused."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import pytest
from prune_helpers import tiny_model, tiny_pairs, tiny_transcoder
from refusals import refuses

import pie_jax
from pie_jax.errors import PieError
from pie_jax.prune.batch.pairs import PairBatch
from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.options import PruneOptions
from pie_jax.prune.results import resumable_folder as folder
from pie_jax.prune.results.tables import TABLES, PruneResult
from pie_jax.prune.step import Columns, Pruner

# Five batches of one shape.
PAIRS = tiny_pairs([16, 15, 16, 15, 16, 15, 16, 15, 16], seed=3)
OPTIONS = PruneOptions(methods=("fap", "random"), budgets=(4, 8), batch_size=2, seed=5)
BATCHES = 5


def run(model_folder: Path, out: Path | None, **rest: Any) -> PruneResult:
    """Run with the model that a folder stands for; a subprocess makes the same one."""
    model = tiny_model(model_folder)
    return pie_jax.prune(model, tiny_transcoder(model), PAIRS, OPTIONS, out=out, **rest)


SCRIPT = """
import sys, time
from pathlib import Path
import conftest, jax
from test_prune_folder import run

jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
run(Path(sys.argv[1]), Path(sys.argv[2]), progress=lambda *_: time.sleep(1.5))
"""


@dataclass
class Killed:
    """What a killed run left, and what an uninterrupted one gave."""

    model: Path
    out: Path
    whole: Path


def parts(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "parts").glob("*.npz"))


def tables(out: Path) -> dict[str, bytes]:
    return {name: (out / f"{name}.parquet").read_bytes() for name in TABLES}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """Kill a run without warning as soon as a batch is on disk."""
    base = tmp_path_factory.mktemp("killed")
    found = Killed(base / "model", base / "out", base / "whole")
    run(found.model, found.whole)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(
            str(Path(__file__).parents[up] / part)
            for up, part in ((0, ""), (2, ""), (2, "helpers"), (3, ""))
        ),
        # What this process compiled need not be compiled there again.
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
    }
    command = [sys.executable, "-c", SCRIPT, str(found.model), str(found.out)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 240
    while not parts(found.out):
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    return found


def count_batches(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Note the rows of every batch that is computed from now on."""
    seen: list[list[int]] = []
    original = Pruner.measure

    def counted(self: Pruner, batch: PairBatch, inputs: BatchEvaluator) -> dict[str, Columns]:
        seen.append(batch.rows[: batch.real].tolist())
        return original(self, batch, inputs)

    monkeypatch.setattr(Pruner, "measure", counted)
    return seen


def test_a_killed_run_resumes_to_the_same_bytes(killed: Killed, monkeypatch: pytest.MonkeyPatch):
    """Finished batches are read, not computed; a half-written one is."""
    done = parts(killed.out)
    assert 1 <= len(done) < BATCHES
    record = json.loads((killed.out / "run.json").read_text())
    assert record["status"] == "running"
    assert not list(killed.out.glob("*.parquet"))
    half = killed.out / "parts" / f"batch-{len(done):06d}.tmp"
    half.write_bytes(b"PK half of a batch")
    refuses(lambda: pie_jax.load_result(killed.out), killed.out, "not complete", kind=PieError)

    before = {name: (killed.out / "parts" / name).stat().st_mtime_ns for name in done}
    computed = count_batches(monkeypatch)
    seen = []

    def watch(at: int, total: int, what: str) -> None:
        kept = {name: (killed.out / "parts" / name).stat().st_mtime_ns for name in done}
        seen.append((at, total, what, kept == before))

    result = run(killed.model, killed.out, progress=watch)
    every = [[0, 1], [2, 3], [4, 5], [6, 7], [8]]
    assert computed == every[len(done) :]
    assert seen == [(n, BATCHES, "batches", True) for n in range(1, BATCHES + 1)]
    assert tables(killed.out) == tables(killed.whole)
    whole = pie_jax.load_result(killed.whole)
    for name, table in result.tables().items():
        assert table.equals(whole.tables()[name])
    assert json.loads((killed.out / "run.json").read_text())["status"] == "complete"
    names = {path.name for path in killed.out.iterdir()}
    assert names == {"run.json", *(f"{name}.parquet" for name in TABLES)}


def test_a_complete_run_is_only_read(killed: Killed, monkeypatch: pytest.MonkeyPatch):
    computed = count_batches(monkeypatch)
    before = {path: path.stat().st_mtime_ns for path in killed.whole.iterdir()}
    again = run(killed.model, killed.whole, progress=lambda *_: pytest.fail("nothing to do"))
    assert computed == []
    assert {path: path.stat().st_mtime_ns for path in killed.whole.iterdir()} == before
    for name, table in pie_jax.load_result(killed.whole).tables().items():
        assert again.tables()[name].equals(table)
    assert again.record["status"] == "complete"


def test_without_a_folder_the_numbers_are_the_same(killed: Killed):
    result = run(killed.model, None)
    for name, table in pie_jax.load_result(killed.whole).tables().items():
        assert result.tables()[name].equals(table)


CHANGES: dict[str, Callable[[dict], dict]] = {
    "budgets": lambda call: {**call, "budgets": (4, 9)},
    "methods": lambda call: {**call, "methods": ("fap",)},
    "metric": lambda call: {**call, "metric": "logsumexp"},
    "corruption": lambda call: {**call, "corruption": "zero-features"},
    "gradient": lambda call: {**call, "gradient": "full"},
    "seed": lambda call: {**call, "seed": 6},
    "synergy": lambda call: {**call, "synergy": replace(OPTIONS.synergy, weight=5.0)},
}


@pytest.mark.parametrize("setting", CHANGES)
def test_another_setting_is_refused_by_name(killed: Killed, setting: str):
    model = tiny_model(killed.model)
    call = CHANGES[setting]({"options": OPTIONS})
    refuses(
        lambda: pie_jax.prune(model, tiny_transcoder(model), PAIRS, out=killed.whole, **call),
        killed.whole,
        f"({setting} changed)",
    )


def test_other_inputs_are_refused(killed: Killed, tmp_path: Path):
    """Other pairs, or the same names with other contents."""
    model = tiny_model(killed.model)
    transcoder = tiny_transcoder(model)
    other = tiny_model(tmp_path / "model", seed=1)
    for change in (
        lambda: pie_jax.prune(model, transcoder, PAIRS[1:], OPTIONS, out=killed.whole),
        lambda: pie_jax.prune(other, transcoder, PAIRS, OPTIONS, out=killed.whole),
    ):
        refuses(change, killed.whole, "(sha256 changed)")
    renamed = replace(model, name="another")
    refuses(
        lambda: pie_jax.prune(renamed, transcoder, PAIRS, OPTIONS, out=killed.whole),
        "(model changed)",
    )


def test_a_folder_of_an_earlier_version_is_read(killed: Killed, tmp_path: Path):
    """It does not record an option that came later."""
    old = shutil.copytree(killed.whole, tmp_path / "old")
    record = json.loads((old / "run.json").read_text())
    del record["config"]["min_tokens"]
    (old / "run.json").write_text(json.dumps(record))
    again = run(killed.model, old)
    assert again.scores.equals(pie_jax.load_result(killed.whole).scores)


def test_folders_of_something_else_are_refused(killed: Killed, tmp_path: Path):
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "scores.parquet").write_text("years of work")
    refuses(lambda: run(killed.model, strange), "--out", strange, "scores.parquet")
    assert sorted(path.name for path in strange.iterdir()) == ["scores.parquet"]
    broken = tmp_path / "broken"
    broken.mkdir()
    for text in ("{", "[]", "{}", '{"config": 3}', "\xff"):
        (broken / "run.json").write_text(text, encoding="latin-1")
        refuses(lambda: run(killed.model, broken), broken / "run.json")


def test_a_place_that_cannot_be_written_is_refused(killed: Killed, tmp_path: Path):
    """Under a file, at a file, and where the name is too long."""
    file = tmp_path / "file"
    file.write_text("")
    for out in (file, file / "out", tmp_path / ("x" * 300)):
        refuses(lambda out=out: run(killed.model, out), "--out", out)


@pytest.mark.parametrize("where", ["write_table", "rmtree"])
def test_a_kill_while_the_results_are_written(
    killed: Killed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
):
    """After two of the tables, or with all of them and the batches still there."""
    out = tmp_path / "out"
    calls = []

    def stop(*arguments: Any, **rest: Any) -> None:
        calls.append(arguments)
        if where == "rmtree" or len(calls) > 2:
            raise KeyboardInterrupt
        write_table(*arguments, **rest)

    write_table = folder.pq.write_table
    module = folder.pq if where == "write_table" else folder.shutil
    with monkeypatch.context() as patch:
        patch.setattr(module, where, stop)
        with pytest.raises(KeyboardInterrupt):
            run(killed.model, out)
    assert len(parts(out)) == BATCHES
    computed = count_batches(monkeypatch)
    run(killed.model, out)
    assert computed == []
    assert tables(out) == tables(killed.whole)
    assert pie_jax.load_result(out).record["status"] == "complete"


def test_what_a_kill_at_the_very_start_leaves_is_no_stranger(killed: Killed, tmp_path: Path):
    """The probe and the record's temporary file, before there is a record."""
    out = tmp_path / "out"
    out.mkdir()
    (out / ".write-test").write_bytes(b"")
    (out / "run.json.tmp").write_text('{"status": "run')
    run(killed.model, out)
    assert tables(out) == tables(killed.whole)


def test_files_that_a_run_never_writes_are_left_alone(killed: Killed, tmp_path: Path):
    """Such as the log of the job that the run is."""
    names = (".DS_Store", "slurm-1234.out", "log.txt")
    for name in names:
        (tmp_path / name).write_text(name)
    run(killed.model, tmp_path)
    assert tables(tmp_path) == tables(killed.whole)
    assert [(tmp_path / name).read_text() for name in names] == list(names)


def test_one_run_writes_into_a_folder_at_a_time(killed: Killed, tmp_path: Path):
    """The second says who does; the next one may, whatever became of the first."""
    refused = []

    def again(*_: Any) -> None:
        second = lambda: run(killed.model, tmp_path)  # noqa: E731
        refused.append(refuses(second, "--out", tmp_path, str(os.getpid()), kind=PieError))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(killed.model, tmp_path, progress=again)
    assert len(refused) == 1
    run(killed.model, tmp_path)
    assert tables(tmp_path) == tables(killed.whole)
    assert not (tmp_path / ".lock").exists()


def test_a_full_disk_is_named_and_costs_nothing_that_is_done(
    killed: Killed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    saved = []

    def full(file: Any, **arrays: Any) -> None:
        saved.append(file.name)
        if len(saved) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        savez(file, **arrays)

    savez = folder.np.savez
    with monkeypatch.context() as patch:
        patch.setattr(folder.np, "savez", full)
        which = tmp_path / "parts" / "batch-000002.npz"
        refuses(lambda: run(killed.model, tmp_path), which, "No space left", kind=PieError)
    assert len(list((tmp_path / "parts").iterdir())) == 2
    computed = count_batches(monkeypatch)
    run(killed.model, tmp_path)
    assert len(computed) == BATCHES - 2
    assert tables(tmp_path) == tables(killed.whole)


def test_a_missing_folder_is_made(killed: Killed, tmp_path: Path):
    out = tmp_path / "a" / "b"
    run(killed.model, out)
    assert tables(out) == tables(killed.whole)


def test_loading_what_is_no_result(killed: Killed, tmp_path: Path):
    for path in (tmp_path, tmp_path / "missing"):
        refuses(lambda path=path: pie_jax.load_result(path), path)
    (tmp_path / "run.json").write_text((killed.whole / "run.json").read_text())
    refuses(lambda: pie_jax.load_result(tmp_path), tmp_path)
    for name in TABLES:
        (tmp_path / f"{name}.parquet").write_bytes(b"not a table")
    refuses(lambda: pie_jax.load_result(tmp_path), tmp_path)
