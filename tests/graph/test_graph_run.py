"""A whole graph in one call: its files, and its predictions beside runs of the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from graph_helpers import tiny

import pie_jax
from pie_jax.errors import InputError
from pie_jax.graph.attribute import attribute
from pie_jax.graph.json_file import read_json
from pie_jax.graph.prune import prune_graph
from pie_jax.graph.run.validate import VALIDATION, correlation, validate
from pie_jax.graph.tables import read_tables
from pie_jax.graph.targets import Direction

PROMPT = "w5 w9 w30 w12 w7 w21 w33"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory):
    return tiny(tmp_path_factory.mktemp("llama"), "llama")


@pytest.mark.parametrize(
    ("family", "options", "targets"),
    [
        ("llama", {}, ("w4", "w8")),
        ("gemma", {"skip": True, "input_site": "mlp_in"}, None),
    ],
)
def test_direct_changes_are_the_predicted_ones(tmp_path: Path, family, options, targets):
    model, clt = tiny(tmp_path, family, **options)
    graph = attribute(model, clt, PROMPT, targets=targets, max_logits=3)
    found = validate(model, clt, graph, prune_graph(graph, 0.95, 1.0), 20)
    assert len(found.node) >= 5
    np.testing.assert_allclose(found.changes["direct"], found.predicted, atol=1e-4)
    assert np.abs(found.predicted).max() > 0.05
    # The strongest first, and what goes through other features is more than nothing.
    assert np.abs(found.changes["nothing"] - found.predicted).max() > 1e-3
    assert found.correlations()["direct"].pearson == pytest.approx(1, abs=1e-5)
    rows = found.table().to_pylist()
    assert len(rows) == len(found.node) * len(graph.targets)
    assert rows[0]["node"] == found.node[0]
    assert rows[0]["direct"] == pytest.approx(rows[0]["predicted"], abs=1e-4)
    assert {one.factor for one in found.measured()} == {0.0}
    assert found.measured()[0].measured == pytest.approx(rows[0]["nothing"])


def test_nodes_that_are_removed_are_the_most_influential(llama):
    model, clt = llama
    graph = attribute(model, clt, PROMPT, max_logits=2)
    pruned = prune_graph(graph, 0.9, 1.0)
    found = validate(model, clt, graph, pruned, 5)
    kept = np.flatnonzero(pruned.nodes[: graph.feature_count])
    others = np.setdiff1d(kept, found.node)
    assert pruned.influence[found.node].max() <= pruned.influence[others].min()
    none = validate(model, clt, graph, prune_graph(graph, 0.9, 1.0), 0)
    assert none.table().num_rows == 0
    assert none.correlations()["nothing"] == (None, None)


def test_own_directions_cannot_be_measured(llama):
    model, clt = llama
    ends = [Direction("one", 1.0, np.ones(model.config.d_model, np.float32))]
    graph = attribute(model, clt, PROMPT, targets=ends)
    with pytest.raises(InputError, match="'one': is a direction and no token"):
        validate(model, clt, graph, prune_graph(graph), 3)


def test_correlation_of_ranks_takes_ties_and_undefined_is_none():
    x, y = np.array([1.0, 2.0, 2.0, 4.0]), np.array([1.0, 8.0, 8.0, 9.0])
    found = correlation(x, y)
    assert found.spearman == pytest.approx(1)
    assert found.pearson == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert correlation(x, -(y**3)).spearman == pytest.approx(-1)
    assert correlation(x, np.ones(4)) == (None, None)
    assert correlation(x[:1], y[:1]) == (None, None)


def test_graph_prompt_writes_files_that_agree(llama, tmp_path: Path):
    model, clt = llama
    found = pie_jax.graph_prompt(
        model, clt, PROMPT, target="w4", distractor="w8", nodes=0.9, validate=4, out=tmp_path / "g"
    )
    assert found.page == tmp_path / "g" / "graph.html"
    page = found.page.read_text(encoding="utf-8")
    nodes, edges = read_tables(tmp_path / "g")
    kept = found.nodes()
    assert nodes["id"].to_pylist() == [node.id for node in kept]
    assert len(read_json(tmp_path / "g" / "graph.json").nodes) == len(kept)
    # Every kept feature has its promoted tokens on the page.
    keys = {node.key for node in kept if node.key is not None}
    assert set(found.promoted) == keys
    assert all(len(one[0].promoted) == 8 for one in found.promoted.values())
    assert found.promoted[min(keys)][0].promoted[0].text.strip() in page
    assert pq.read_table(tmp_path / "g" / VALIDATION).num_rows == 4
    strongest = found.inputs(3)
    weights = edges.filter(np.asarray(edges["target"]) == found.graph.node_count - 1)[
        "weight"
    ].to_numpy()
    expected = sorted(np.abs(weights).tolist(), reverse=True)[:3]
    assert [abs(one.weight) for one in strongest] == pytest.approx(expected)
    again = pie_jax.graph_prompt(model, clt, PROMPT, features=9, out=tmp_path / "g")
    assert again.graph.feature_count == 9
    assert not (tmp_path / "g" / VALIDATION).exists()
    assert again.validation is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": ""}, "prompt: 1 token with BOS"),
        ({"target": "w4 w5", "distractor": "w8"}, "'w4 w5' is 2 tokens"),
        ({"target": "w4"}, "--target is given without --distractor"),
        ({"distractor": "w4"}, "--distractor is given without --target"),
        ({"nodes": 1.5}, "--nodes 1.5: must be a share"),
        ({"edges": -0.1}, "--edges -0.1: must be a share"),
        ({"edges": float("nan")}, "--edges nan: must be a share"),
        ({"features": 0}, "--features 0: must be at least 1"),
        ({"validate": -1}, "--validate -1"),
        ({"edges": 0.0, "nodes": 0.0}, "no feature is left"),
    ],
)
def test_bad_input_is_one_sentence(llama, options, message):
    with pytest.raises(InputError, match=message) as error:
        pie_jax.graph_prompt(*llama, **{"prompt": PROMPT, **options})
    assert "\n" not in str(error.value)


def test_a_graph_without_features_is_refused(tmp_path: Path):
    model, clt = tiny(tmp_path, "llama", bias=-100.0)
    with pytest.raises(InputError, match="no feature of the transcoder is active"):
        pie_jax.graph_prompt(model, clt, PROMPT)
