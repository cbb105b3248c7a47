"""Two processes of four devices each: one run, one writer, and what a kill leaves."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import pytest
from mesh_helpers import OPTIONS, PAIRS, same_results
from prune_helpers import tiny_model, tiny_transcoder
from refusals import refuses

import pie_jax
from pie_jax import distributed
from pie_jax.errors import InputError
from pie_jax.prune.results import TABLES, PruneResult

HERE = Path(__file__).parent
SECONDS = 240


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

    def results(self) -> list[PruneResult]:
        return [pickle.loads((self.base / f"{i}.pickle").read_bytes()) for i in range(2)]

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def start(base: Path, mesh: str, outs: list[Path], wait: float = 0) -> Pair:
    """Start both processes; `outs` are their results folders."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(HERE), str(HERE.parent))),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "4",
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }
    port, processes = free_port(), []
    for index, out in enumerate(outs):
        names = (index, port, mesh, base / "model", out, wait, base / f"{index}.pickle")
        command = [sys.executable, str(HERE / "mesh_child.py"), *map(str, names)]
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
@pytest.mark.parametrize("mesh", ["data=4,model=2", "model=8"])
def test_two_processes_give_one_devices_results(mesh: str, single: PruneResult, tmp_path: Path):
    """Prompts of each process, or weights cut over both; the second process writes nothing."""
    outs = [tmp_path / "first", tmp_path / "second"]
    pair = start(tmp_path, mesh, outs)
    try:
        assert pair.wait() == [0, 0], pair.words()
    finally:
        pair.end()
    for result in pair.results():
        same_results(result, single)
    same_results(pie_jax.load_result(outs[0]), single)
    assert not outs[1].exists()


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_other_and_the_run_resumes(
    victim: int, single: PruneResult, tmp_path: Path
):
    out = tmp_path / "out"
    pair = start(tmp_path, "data=4,model=2", [out, out], wait=3)
    try:
        deadline = time.monotonic() + SECONDS
        while not (out / "parts" / "batch-000000.npz").exists():
            assert all(p.poll() is None for p in pair.processes), pair.words()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        pair.processes[victim].send_signal(signal.SIGKILL)
        codes = pair.wait(60)
    finally:
        pair.end()
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] != 0
    # The batch that was on its way is not there.
    assert [path.name for path in (out / "parts").glob("*.npz")] == ["batch-000000.npz"]
    assert not list(out.glob("*.parquet"))
    written = (out / "parts" / "batch-000000.npz").stat().st_mtime_ns

    pair = start(tmp_path, "data=4,model=2", [out, out], wait=3)
    try:
        # Resumed: the first batch is read, not computed.
        while not (out / "parts" / "batch-000001.npz").exists():
            assert all(p.poll() is None for p in pair.processes), pair.words()
            time.sleep(0.05)
        assert (out / "parts" / "batch-000000.npz").stat().st_mtime_ns == written
        assert pair.wait() == [0, 0], pair.words()
    finally:
        pair.end()
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


def test_one_process_decides_for_itself():
    assert distributed.is_first()
    assert distributed.from_first(lambda: 3) == 3
    distributed.require_same("anything", "options")

    def fail() -> None:
        raise InputError("a folder cannot be written.")

    refuses(lambda: distributed.from_first(fail), "a folder")
