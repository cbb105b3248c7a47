"""`pie-jax prune --scope task`: the table and the folder, and what must not be done with it."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from cli_helpers import pie

import pie_jax


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        assert pie(patch, "tasks", "docstring", "-n", 4, "--seed", 5, "--out", path) == 0
    return path


COMMAND = ["prune", "--method", "fap,random", "--budget", "5,20", "--batch-size", "2"]


@pytest.fixture(scope="module")
def folder(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("task") / "out"
    with pytest.MonkeyPatch.context() as patch:
        assert pie(patch, *COMMAND, "--pairs", pairs, "--out", out, "--scope", "task") == 0
    return out


def test_the_folder_has_circuits_and_their_kl(folder: Path):
    record = json.loads((folder / "run.json").read_text())
    assert (record["status"], record["config"]["scope"]) == ("complete", "task")
    assert {path.name for path in folder.iterdir()} == {
        "run.json",
        "pairs.jsonl",
        "task.parquet",
        "task_behaviour.parquet",
    }
    task = pq.read_table(folder / "task.parquet")
    assert task.num_rows == 2 * (5 + 20)
    assert task.schema.names == [
        "method", "budget", "layer", "feature", "rank", "score", "feature_id",
    ]  # fmt: skip
    behaviour = pq.read_table(folder / "task_behaviour.parquet")
    assert behaviour.num_rows == 4 * 2 * 2
    assert sum(behaviour["seen"].to_pylist()) == 8


def test_the_same_command_shows_the_table_at_once(monkeypatch, pairs: Path, folder: Path, capsys):
    assert pie(monkeypatch, *COMMAND, "--pairs", pairs, "--out", folder, "--scope", "task") == 0
    shown = capsys.readouterr().out
    for words in ("KL seen", "KL unseen", "ratio", "unique alone", "fap", "random"):
        assert words in shown
    row = pie_jax.load_task_result(folder).summary()[0]
    assert row.seen is not None
    assert f"{row.seen.mean:.3f}" in shown
    assert f"{row.seen.low:.2f}" in shown
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("command", ["compare", "examples", "interpret", "evaluate", "report"])
def test_what_needs_single_prompts_refuses_the_folder(
    monkeypatch, folder: Path, tmp_path: Path, capsys, command: str
):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("Some words to read. " * 200)
    rest = ["--corpus", corpus] if command == "examples" else []
    assert pie(monkeypatch, command, folder, *rest) == 2
    error = capsys.readouterr().err
    assert "--scope task" in error
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) <= 3


def test_unknown_scopes_and_too_few_pairs_are_refused(
    monkeypatch, pairs: Path, tmp_path: Path, capsys
):
    out = tmp_path / "out"
    assert pie(monkeypatch, *COMMAND, "--pairs", pairs, "--out", out, "--scope", "model") == 2
    assert "--scope: `model` is not known; use prompt, task." in capsys.readouterr().err
    one = tmp_path / "one.jsonl"
    one.write_text(pairs.read_text().splitlines()[0] + "\n")
    assert pie(monkeypatch, *COMMAND, "--pairs", one, "--out", out, "--scope", "task") == 2
    assert "at least 2 pairs" in capsys.readouterr().err
    assert not out.exists()
