"""`pie-jax graph` on the demo: of a prompt, and of a circuit with what later stages say of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from cli_helpers import pie

import pie_jax
from pie_jax.demo.corpus import make_documents
from pie_jax.errors import InputError
from pie_jax.graph.tables import read_tables

PROMPT = "Then, Peter and Joe had a long talk. Afterwards Joe said to"
ANSWERS = ("--target", " Peter", "--distractor", " Joe")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run on the demo with explanations and scores."""
    folder = tmp_path_factory.mktemp("graph") / "results"
    model, clt = pie_jax.load_model(), pie_jax.load_transcoder()
    pairs = pie_jax.tasks.get_task("ioi").generate(2, seed=0, tokenizer=model.tokenizer)
    settings = {"methods": ("fap", "random"), "budgets": (5, 10), "batch_size": 2}
    pie_jax.prune(model, clt, pairs, out=folder, **settings)
    pie_jax.tasks.write_pairs(folder / "pairs.jsonl", pairs)
    corpus = folder.parent / "corpus.jsonl"
    texts = make_documents(60, seed=3)
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    weights, chosen = {"model": model, "transcoder": clt}, pie_jax.Chosen(features=3, baselines=1)
    pie_jax.examples_run(folder, [corpus], chosen, **weights)
    roles = pie_jax.make_roles()
    pie_jax.interpret_run(folder, chosen, roles)
    pie_jax.evaluate_run(folder, roles, preset="pie", scorers=("responsiveness",), **weights)
    return folder


def test_a_prompts_graph_is_written_and_told(monkeypatch, tmp_path, capsys):
    command = ("graph", "--prompt", PROMPT, *ANSWERS, "--out", tmp_path)
    assert pie(monkeypatch, *command, "--validate", 3) == 0
    shown = capsys.readouterr().out
    nodes, edges = read_tables(tmp_path)
    assert f"{nodes.num_rows}: " in shown
    assert f" {edges.num_rows} " in shown
    # Whatever the demo's weights: the strongest feature that its table has.
    place = {row["node"]: row for row in nodes.to_pylist()}
    inputs = [row for row in edges.to_pylist() if place[row["target"]]["kind"] == "target"]
    features = [row for row in inputs if place[row["source"]]["kind"] == "feature"]
    best = place[max(features, key=lambda row: abs(row["weight"]))["source"]]
    strongest = f"feature {best['layer']}:{best['feature']} at {best['position']}"
    for words in ("replacement score", strongest, "3 features removed", "direct"):
        assert words in shown
    assert f"page: {tmp_path / 'graph.html'}" in shown
    assert pq.read_table(tmp_path / "graph_validation.parquet").num_rows == 3
    assert '"measured":{"' in (tmp_path / "graph.html").read_text()


def test_a_circuits_graph_has_its_features_and_what_is_known_of_them(folder):
    found = pie_jax.graph_run(folder, pair=1, budget=10, nodes=0.1)
    result = pie_jax.load_result(folder)
    kept = {
        (row["layer"], row["position"], row["feature"])
        for row in result.selections.to_pylist()
        if (row["prompt"], row["method"], row["budget"]) == (1, "fap", 10)
    }
    clean = {
        (row["layer"], row["position"], row["feature"]): row["activation_clean"]
        for row in result.scores.to_pylist()
        if row["prompt"] == 1
    }
    graph = found.graph
    places = list(zip(graph.layer, graph.position, graph.feature, strict=True))
    assert set(places) == {place for place in kept if clean[place] != 0}
    assert found.inactive == 10 - len(places)
    np.testing.assert_allclose(graph.activation, [clean[p] for p in places], rtol=1e-4)
    # All stay, whatever their influence.
    assert found.pruned.nodes[: graph.feature_count].all()
    (row,) = (
        row
        for row in result.behaviour.to_pylist()
        if (row["prompt"], row["method"], row["budget"]) == (1, "fap", 10)
    )
    assert found.kl == pytest.approx(row["kl_last"])
    assert found.page == folder / "graph" / "graph.html"
    assert found.texts.labels
    page = found.page.read_text(encoding="utf-8")
    assert '"scores":[["responsiveness"' in page
    table, _ = read_tables(folder / "graph")
    assert set(found.texts.labels.values()) <= set(table["label"].to_pylist())
    assert found.texts.examples.keys() <= {(layer, feature) for layer, _, feature in places}
    assert found.texts.examples


def test_a_circuits_graph_on_the_command_line(monkeypatch, folder, tmp_path, capsys):
    out = tmp_path / "elsewhere"
    assert pie(monkeypatch, "graph", folder, "--validate", 0, "--out", out) == 0
    shown = capsys.readouterr().out
    assert "KL(clean || circuit)" in shown
    assert (out / "graph.json").exists()
    assert "Circuit of pair 0: fap, K = 5" in (out / "graph.html").read_text(encoding="utf-8")


def test_changes_and_tasks_for_scripts(monkeypatch, folder, tmp_path, capsys):
    options = ("--changes", "--format", "json", "--out")
    assert pie(monkeypatch, "graph", folder, "--validate", 0, *options, tmp_path / "one") == 0
    one = json.loads(capsys.readouterr().out)
    # Whatever is active in the corrupted prompt alone is a node too.
    assert (one["graph"][0]["features"], one["graph"][0]["inactive"]) == (5, 0)
    assert "Changes in the circuit" in (tmp_path / "one" / "graph.html").read_text()
    assert pie(monkeypatch, "graph", folder, "--task", *options, tmp_path / "task") == 0
    task = json.loads(capsys.readouterr().out)
    nodes, edges = read_tables(tmp_path / "task")
    assert task["graph"][0]["nodes"] == nodes.num_rows
    assert task["graph"][0]["page"] == str(tmp_path / "task" / "graph.html")
    assert set(edges["prompts"].to_pylist()) <= {0.5, 1.0}
    assert {"start", "end", "distractor-2"} <= set(nodes["text"].to_pylist())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "give either the folder of a run or --prompt"),
        (["RUN", "--prompt", "x"], "give either the folder of a run or --prompt"),
        (["RUN", "--pair", 7], "--pair 7: is not among the run's 2 pairs"),
        (["RUN", "--budget", 6], "--budget 6 is not in this run; it has 5, 10"),
        (["RUN", "--method", "relp"], "--method `relp` is not in this run"),
        (["RUN", "--target", " a"], "--target: cannot be combined with a run's folder"),
        (["RUN", "--nodes", 2], "--nodes 2.0: must be a share"),
        (["RUN", "--merge", "role"], "--merge: needs --task or --versus here; add it"),
        (["RUN", "--versus", "x"], "--versus: needs --task here; add it"),
        (["RUN", "--features", 5], "--features: needs --task here; add it"),
        (["RUN", "--corrupted", "x"], "--corrupted: cannot be combined with a run's folder"),
        (["RUN", "--task", "--pair", 0], "--pair: cannot be combined with --task"),
        (["RUN", "--task", "--validate", 3], "--validate: cannot be combined with --task"),
        (["RUN", "--task", "--merge", "x"], "--merge `x`: is not one of role, token, position"),
        (["RUN", "--task", "--versus", "/no/such"], "/no/such: not a results folder"),
        (["--prompt", PROMPT, "--changes"], "--changes: cannot be combined with --prompt"),
        (["--prompt", PROMPT, "--corrupted", "a b"], "corrupted: 3 tokens with BOS"),
        (["--prompt", PROMPT, "--pair", 0], "--pair: cannot be combined with --prompt"),
        (["--prompt", PROMPT, *ANSWERS[:2]], "--target is given without --distractor"),
        (["--prompt", PROMPT, "--edges", 2], "--edges 2.0: must be a share"),
        (["--prompt", ""], "prompt: 1 token with BOS"),
        (["/no/such/folder"], "not a results folder"),
    ],
)
def test_bad_input_is_one_sentence(monkeypatch, folder, tmp_path, capsys, arguments, named):
    given = [folder if one == "RUN" else one for one in arguments]
    assert pie(monkeypatch, "graph", *given, "--out", tmp_path / "out") == 2
    shown = capsys.readouterr().err
    assert named in shown
    assert shown.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_circuit_of_nothing_that_is_active_is_refused(folder, monkeypatch):
    result = pie_jax.load_result(folder)
    zeros = np.zeros(result.scores.num_rows, np.float32)
    at = result.scores.column_names.index("activation_clean")
    changed = result.scores.set_column(at, "activation_clean", [zeros])
    object.__setattr__(result, "scores", changed)
    monkeypatch.setattr("pie_jax.graph.run.pair.load_result", lambda _: result)
    with pytest.raises(InputError, match="--budget 5: nothing that is kept in pair 0 is active"):
        pie_jax.graph_run(folder)


def test_a_pair_without_answers_ends_in_the_likeliest_tokens(folder, tmp_path):
    pairs = pie_jax.load_pairs(folder / "pairs.jsonl")
    for given, labels in (({"distractor": None}, [pairs[0].target]), (
        {"target": None, "distractor": None}, None,
    )):  # fmt: skip
        bare = [replace(pair, **given) for pair in pairs]
        pie_jax.tasks.write_pairs(tmp_path / "bare.jsonl", bare)
        found = pie_jax.graph_run(folder, pairs=tmp_path / "bare.jsonl", out=tmp_path / "out")
        assert all(target.token is not None for target in found.graph.targets)
        assert labels in (None, [target.label for target in found.graph.targets])
    pie_jax.tasks.write_pairs(tmp_path / "one.jsonl", pairs[:1])
    with pytest.raises(InputError, match="--pair 1: only 1 pairs are given"):
        pie_jax.graph_run(folder, pair=1, pairs=tmp_path / "one.jsonl")
    with pytest.raises(InputError, match="no pairs; name the run's own"):
        pie_jax.graph_run(folder, pairs=tmp_path / "none.jsonl")
