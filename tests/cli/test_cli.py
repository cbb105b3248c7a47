"""The command line: the main job on the demo, and one sentence with an exit code for bad input."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pyarrow.parquet as pq
import pytest
from cli_helpers import pie

import pie_jax
from pie_jax.cli import app

PRUNE = ["--method", "fap,random", "--budget", "5,10", "-n", "4", "--batch-size", "4"]
FAST = [*PRUNE, "--stages", "prune"]


def test_run_on_the_demo_leaves_tables_and_a_report(monkeypatch, tmp_path, capsys):
    out = tmp_path / "results"
    assert pie(monkeypatch, "run", *FAST, "--out", out) == 0
    shown = capsys.readouterr().out
    assert "fap" in shown
    assert "K = 10" in shown
    record = json.loads((out / "run.json").read_text())
    assert record["status"] == "complete"
    assert record["pairs"] == 4
    for name in ("scores", "selections", "behaviour", "features"):
        assert pq.read_table(out / f"{name}.parquet").num_rows > 0
    report = (out / "report.html").read_text()
    assert "<svg" in report
    assert '<a href="graph/graph.html">' in report
    assert "Circuit of pair 0: fap, K = 5" in (out / "graph" / "graph.html").read_text()
    assert not (out / "parts").exists()
    # Elsewhere, a report leads to the same page; without a graph, to none.
    elsewhere = tmp_path / "a b" / "page.html"
    elsewhere.parent.mkdir()
    assert pie(monkeypatch, "report", out, "--out", elsewhere) == 0
    assert '<a href="../results/graph/graph.html">' in elsewhere.read_text()
    shutil.rmtree(out / "graph")
    assert pie(monkeypatch, "report", out) == 0
    assert "<a href" not in (out / "report.html").read_text()


def test_a_run_without_a_graph_says_why(monkeypatch, tmp_path, capsys):
    def refuse(*args, **rest):
        raise pie_jax.InputError("nothing that is kept is active.")

    monkeypatch.setattr("pie_jax.graph.run.pair.graph_run", refuse)
    few = ["--method", "random", "--budget", "1", "-n", "1", "--stages", "prune"]
    assert pie(monkeypatch, "run", *few, "--out", tmp_path / "out") == 0
    assert "no graph of the first pair: nothing that is kept" in capsys.readouterr().out


def test_generated_pairs_go_through_prune(monkeypatch, tmp_path):
    pairs, out = tmp_path / "pairs.jsonl", tmp_path / "out"
    assert pie(monkeypatch, "tasks", "docstring", "-n", 3, "--seed", 5, "--out", pairs) == 0
    assert len(pairs.read_text().splitlines()) == 3
    command = ["prune", "--pairs", pairs, "--method", "fap", "--budget", "5", "--out", out]
    rest = ("--corruption", "zero-features", "--gradient", "full", "--judge-zero-features")
    assert pie(monkeypatch, *command, *rest) == 0
    config = json.loads((out / "run.json").read_text())["config"]
    assert (config["corruption"], config["gradient"]) == ("zero-features", "full")
    assert config["judge_zero_features"] is True
    assert pq.read_table(out / "behaviour.parquet")["kl_zero"].null_count == 0


def test_skipped_pairs_are_counted_and_named(monkeypatch, tmp_path, capsys):
    pairs, out = tmp_path / "pairs.jsonl", tmp_path / "out"
    assert pie(monkeypatch, "tasks", "ioi", "-n", 2, "--out", pairs) == 0
    bad = {"clean": "a b c d e f g h", "corrupted": "a b", "target": " Mary", "distractor": " John"}
    with pairs.open("a") as file:
        file.write(json.dumps(bad) + "\n")
    command = ["prune", "--pairs", pairs, "--method", "fap", "--budget", "5", "--out", out]
    capsys.readouterr()
    assert pie(monkeypatch, *command) == 2
    assert "row 2" in capsys.readouterr().err
    assert pie(monkeypatch, *command, "--on-bad-pair", "skip") == 0
    assert "skipped pairs: 1" in capsys.readouterr().out
    record = json.loads((out / "run.json").read_text())
    assert record["pairs"] == 2
    assert [pair["index"] for pair in record["skipped_pairs"]] == [2]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--method", "fab"], "--method: `fab`"),
        (["--budget", "0"], "--budget"),
        (["--budget", "ten"], "--budget: `ten`"),
        (["--budget", "5,5"], "--budget"),
        (["--metric", "loss"], "--metric: `loss`"),
        (["--corruption", "noise"], "--corruption: `noise`"),
        (["--gradient", "none"], "--gradient: `none`"),
        (["--scope-layers", "some"], "--scope-layers: `some`"),
        (["--on-bad-pair", "ignore"], "--on-bad-pair: `ignore`"),
        (["--batch-size", "0"], "--batch-size"),
        (["--synergy-lambda", "nan"], "--synergy-lambda"),
        (["--synergy-boundary-percent", "0"], "--synergy-boundary-percent"),
        (["--synergy-partners", "0"], "--synergy-partners"),
        (["--dtype", "int8"], "dtype `int8`"),
        (["--model", "/no/such/folder"], "/no/such/folder"),
        (["--transcoder", "/no/such/folder"], "/no/such/folder"),
    ],
)
def test_bad_options_are_one_sentence_and_exit_code_2(
    monkeypatch, tmp_path, capsys, arguments, named
):
    pairs = tmp_path / "pairs.jsonl"
    assert pie(monkeypatch, "tasks", "ioi", "-n", 2, "--out", pairs) == 0
    capsys.readouterr()
    code = pie(monkeypatch, "prune", "--pairs", pairs, "--out", tmp_path / "out", *arguments)
    error = capsys.readouterr().err
    assert code == 2
    assert named in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_an_unwritable_or_foreign_folder_is_refused(monkeypatch, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("x")
    assert pie(monkeypatch, "run", *FAST, "--out", file / "below") == 2
    assert "cannot be written" in capsys.readouterr().err
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "report.html").write_text("x")
    assert pie(monkeypatch, "run", *FAST, "--out", foreign) == 2
    assert "report.html" in capsys.readouterr().err
    assert [path.name for path in foreign.iterdir()] == ["report.html"]


def test_another_config_is_refused_and_the_same_returns_at_once(monkeypatch, tmp_path, capsys):
    out = tmp_path / "out"
    assert pie(monkeypatch, "run", *FAST, "--out", out) == 0
    before = {path: path.stat().st_mtime_ns for path in Path(out).glob("*.parquet")}
    assert pie(monkeypatch, "run", *FAST, "--out", out) == 0
    assert {path: path.stat().st_mtime_ns for path in Path(out).glob("*.parquet")} == before
    capsys.readouterr()
    assert pie(monkeypatch, "run", *FAST, "--seed", "1", "--out", out) == 2
    assert "another config" in capsys.readouterr().err


def test_a_defect_is_exit_code_1_and_debug_shows_where(monkeypatch, capsys):
    def broken() -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(app, "app", broken)
    assert pie(monkeypatch) == 1
    error = capsys.readouterr().err
    assert "boom" in error
    assert "Traceback" not in error
    assert pie(monkeypatch, "--debug") == 1
    assert "Traceback" in capsys.readouterr().err


COMMANDS = (
    *("run", "plan", "prune", "examples", "interpret", "evaluate", "report", "train-clt"),
    *("check", "intervene"),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_examples(monkeypatch, capsys, command):
    assert pie(monkeypatch, command, "--help") == 0
    assert f"pie-jax {command}" in capsys.readouterr().out


def test_the_command_line_starts_without_jax():
    """What only shows help or refuses an option need not wait for it."""
    code = "import sys, pie_jax.cli.app; print({'jax', 'flax', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


def test_version_names_what_a_report_of_a_defect_needs(monkeypatch, capsys):
    assert pie(monkeypatch, "--version") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("pie-jax ")
    assert f", jax {jax.__version__}, " in shown
    assert ", Python 3." in shown
