"""Two processes of four devices each: one run, one writer, and what a kill leaves."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from mesh_helpers import OPTIONS, PAIRS, same_results
from prune_helpers import tiny_model, tiny_transcoder
from refusals import refuses

import pie_jax
from pie_jax.devices import processes as distributed
from pie_jax.errors import InputError, PieError
from pie_jax.prune.results.tables import TABLES, PruneResult

TESTS = Path(__file__).parents[1]
SECONDS = 240
FIRST_ROWS = [0, 8, 16]


@dataclass
class Pair:
    """Two processes of one run, each with its own place for results and its own words."""

    base: Path
    processes: list[subprocess.Popen]

    def wait(self, seconds: float = SECONDS) -> list[int]:
        """Return both exit codes."""
        deadline = time.monotonic() + seconds
        return [p.wait(max(deadline - time.monotonic(), 0.1)) for p in self.processes]

    def words(self) -> str:
        return "".join((self.base / f"{i}.log").read_text()[-2000:] for i in range(2))

    def wait_for(self, path: Path) -> None:
        deadline = time.monotonic() + SECONDS
        while not path.exists():
            assert all(p.poll() is None for p in self.processes), self.words()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def results(self) -> list[tuple[PruneResult, list[int], Any]]:
        """Return both processes' results, the first rows of the batches they computed, and what
        they said afterwards."""
        return [pickle.loads((self.base / f"{i}.pickle").read_bytes()) for i in range(2)]

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@contextmanager
def started(base: Path, mesh: str, outs: list[Path], wait: float = 0) -> Iterator[Pair]:
    """Start both processes and leave none behind; `outs` are their results folders."""
    pair = start(base, mesh, outs, wait)
    try:
        yield pair
    finally:
        pair.end()


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def start(base: Path, mesh: str, outs: list[Path], wait: float = 0) -> Pair:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (TESTS, TESTS / "helpers", TESTS.parent))),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "4",
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }
    port, processes = free_port(), []
    for index, out in enumerate(outs):
        names = (index, port, mesh, base / "model", out, wait, base / f"{index}.pickle")
        command = [sys.executable, str(TESTS / "helpers" / "mesh_child.py"), *map(str, names)]
        with (base / f"{index}.log").open("w") as log:
            processes.append(
                subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
            )
    return Pair(base, processes)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> PruneResult:
    """What one device computes; kept in no folder."""
    model = tiny_model(tmp_path_factory.mktemp("single"))
    return pie_jax.prune(model, tiny_transcoder(model), PAIRS, OPTIONS)


@pytest.mark.slow
def test_two_processes_give_one_devices_results(single: PruneResult, tmp_path: Path):
    """With weights cut over both processes; the second one writes nothing."""
    outs = [tmp_path / "first", tmp_path / "second"]
    with started(tmp_path, "model=8", outs) as pair:
        assert pair.wait() == [0, 0], pair.words()
    for result, computed, (refused, answer) in pair.results():
        same_results(result, single)
        assert computed == FIRST_ROWS
        # Whoever differs, and whatever process 0 meets, both hear of it.
        assert [words.partition(";")[0] for words in refused] == [
            "the options differ between the processes",
            "process 0 refuses.",
        ]
        assert answer == ("0", bytes(5000))
    same_results(pie_jax.load_result(outs[0]), single)
    assert not outs[1].exists()


@pytest.mark.slow
def test_a_killed_process_ends_the_other_and_the_run_resumes(single: PruneResult, tmp_path: Path):
    """First the second process is killed, then, in the resumed run, the first."""
    out = tmp_path / "out"
    for victim, done in ((1, 0), (0, 1)):
        with started(tmp_path, "data=4,model=2", [out, out], wait=2) as pair:
            pair.wait_for(out / "parts" / f"batch-{done:06d}.npz")
            pair.processes[victim].send_signal(signal.SIGKILL)
            codes = pair.wait(60)
        assert codes[victim] == -signal.SIGKILL
        assert codes[1 - victim] != 0
        # The batch that was on its way is not there.
        left = sorted(path.name for path in (out / "parts").glob("*.npz"))
        assert left == [f"batch-{index:06d}.npz" for index in range(done + 1)]
        assert not list(out.glob("*.parquet"))

    with started(tmp_path, "data=4,model=2", [out, out]) as pair:
        assert pair.wait() == [0, 0], pair.words()
    for result, computed, _ in pair.results():
        same_results(result, single)
        assert computed == FIRST_ROWS[2:]
    assert {path.name for path in out.iterdir()} == {"run.json", *(f"{t}.parquet" for t in TABLES)}
    same_results(pie_jax.load_result(out), single)


# What one process can say


@pytest.mark.parametrize(
    ("environment", "asked"),
    [
        ({}, False),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}, False),
        ({"SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"SLURM_STEP_NUM_TASKS": "4"}, True),
        ({"JAX_COORDINATOR_ADDRESS": "host:1"}, True),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),
    ],
)
def test_processes_join_where_the_environment_asks(environment: dict[str, str], asked: bool):
    """A job's allocation alone, or one task, is no reason to wait for others."""
    assert distributed.asked_for(environment) is asked


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("host:1", 2, None), "--process"),
        ((None, None, 0), "--coordinator"),
        (("host", 2, 0), "`host`"),
        ((":1", 2, 0), "`:1`"),
        (("host:port", 2, 0), "`host:port`"),
        (("host:1", 2, 2), "from 0 to 1"),
        (("host:1", 2, -1), "from 0 to 1"),
    ],
)
def test_processes_that_mean_nothing_are_refused(arguments: tuple, named: str):
    refuses(lambda: distributed.start(*arguments), named)


def test_no_cluster_is_bad_input(tmp_path: Path):
    """Asked to join what is not there, the command says so at once."""
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(
        json.dumps({"clean": "a b", "corrupted": "a c", "target": " d", "distractor": " e"}) + "\n"
    )
    command = [sys.executable, "-m", "pie_jax", "prune", "--pairs", str(pairs), "--distributed"]
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out")], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert "finds no cluster" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", [0, 1000, 1016, 1017, 5000])
def test_messages_of_any_size_arrive(size: int, monkeypatch: pytest.MonkeyPatch):
    """In one broadcast or two, of few sizes."""
    sizes = []
    send = distributed.multihost_utils.broadcast_one_to_all

    def watched(buffer: np.ndarray) -> np.ndarray:
        sizes.append(len(buffer))
        return send(buffer)

    monkeypatch.setattr(distributed.multihost_utils, "broadcast_one_to_all", watched)
    message = np.random.default_rng(0).bytes(size)
    assert distributed._broadcast(message) == message
    assert sizes == [1024] if size <= 1016 else sizes in ([1024, 1024], [1024, 4096])


def test_a_failed_pass_names_the_way_out(monkeypatch: pytest.MonkeyPatch):
    """With several processes; alone, it stays what it is."""

    def fail() -> None:
        with distributed.naming_lost_processes():
            raise jax.errors.JaxRuntimeError("Connection closed by peer\nmore")

    with pytest.raises(jax.errors.JaxRuntimeError):
        fail()
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    refuses(fail, "Connection closed by peer", "resume", kind=PieError)


def test_one_process_decides_for_itself():
    assert distributed.is_first()
    assert distributed.from_first(lambda: 3) == 3
    distributed.require_same("anything", "options")

    def fail() -> None:
        raise InputError("a folder cannot be written.")

    refuses(lambda: distributed.from_first(fail), "a folder")
