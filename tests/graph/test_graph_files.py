"""A graph's JSON, its viewer folder and its tables: keys, ids, what is read back and refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from random_graphs import made_graph, random_graph  # noqa: F401

from pie_jax.errors import InputError
from pie_jax.graph.json_file import cantor, read_json, write_json
from pie_jax.graph.listing import all_nodes, kept_nodes
from pie_jax.graph.types import Graph, Pruned, Target

# Required keys and types of Neuronpedia's validator, and those that circuit-tracer always writes.
NUMBER = (int, float)
NODE = {
    "node_id": str,
    "feature": int,
    "layer": str,
    "ctx_idx": int,
    "feature_type": str,
    "token_prob": NUMBER,
    "is_target_logit": bool,
    "run_idx": int,
    "reverse_ctx_idx": int,
    "jsNodeId": str,
    "clerp": str,
    "influence": (*NUMBER, type(None)),
    "activation": (*NUMBER, type(None)),
}
LINK = {"source": str, "target": str, "weight": NUMBER}
METADATA = {
    "slug": str,
    "scan": str,
    "transcoder_list": list,
    "prompt_tokens": list,
    "prompt": str,
    "schema_version": int,
}
STATE = {
    "pinnedIds": list,
    "supernodes": list,
    "linkType": str,
    "clickedId": str,
    "sg_pos": str,
}
KEYS = {"slug": "dallas", "scan": "owner/repo"}


def require(data: dict, keys: dict) -> None:
    for key, kind in keys.items():
        assert isinstance(data[key], kind), key


def written(tmp_path: Path, graph: Graph, pruned: Pruned, **options) -> dict:
    path = tmp_path / "graph.json"
    write_json(path, graph, pruned, **{**KEYS, **options})
    return json.loads(path.read_text())


def test_every_key_that_the_pages_need_is_there(made, tmp_path: Path) -> None:
    graph, pruned = made
    data = written(tmp_path, graph, pruned, node_threshold=0.8, edge_threshold=0.98)
    assert list(data) == ["metadata", "qParams", "nodes", "links"]
    require(data["metadata"], METADATA)
    require(data["qParams"], STATE)
    for node in data["nodes"]:
        require(node, NODE)
    for link in data["links"]:
        require(link, LINK)
    assert data["metadata"]["node_threshold"] == 0.8
    assert data["metadata"]["pruning_settings"] == {"node_threshold": 0.8, "edge_threshold": 0.98}
    assert data["metadata"]["prompt"] == "".join(graph.tokens)
    assert len(data["nodes"]) == pruned.nodes.sum()
    assert {node["feature_type"] for node in data["nodes"]} == {
        "cross layer transcoder",
        "mlp reconstruction error",
        "embedding",
        "logit",
    }


def test_links_are_the_kept_rows(made, tmp_path: Path) -> None:
    graph, pruned = made
    names = {node.id: node.number for node in all_nodes(graph)}
    data = written(tmp_path, graph, pruned)
    row = {i: i for i in range(graph.feature_count)}
    first = graph.node_count - len(graph.targets)
    row |= {first + k: graph.feature_count + k for k in range(len(graph.targets))}
    rows = np.zeros_like(graph.rows)
    for link in data["links"]:
        rows[row[names[link["target"]]], names[link["source"]]] = link["weight"]
    # The same float32, not one near it.
    np.testing.assert_array_equal(rows, np.where(pruned.edges, graph.rows, 0))


def test_an_error_and_a_feature_of_layer_0_have_different_ids(tmp_path: Path) -> None:
    graph, pruned = random_graph(features=4, layers=4, edges=10_000)
    # circuit-tracer calls the error of layer 3 at position 2 `0_3_2`, like feature 3 of layer 0.
    graph = replace(graph, layer=graph.layer * 0, position=graph.position * 0 + 2)
    graph = replace(graph, feature=np.arange(4))
    pruned = replace(pruned, nodes=np.ones_like(pruned.nodes))
    nodes = written(tmp_path, graph, pruned)["nodes"]
    assert "0_3_2" in {node["node_id"] for node in nodes}
    for key in ("node_id", "jsNodeId"):
        errors = {n[key] for n in nodes if n["feature_type"] == "mlp reconstruction error"}
        assert len(errors) == 4 * len(graph.tokens)
        assert not errors & {n[key] for n in nodes if n["feature_type"] == "cross layer transcoder"}


def test_features_are_called_by_cantors_number(made, tmp_path: Path) -> None:
    nodes = written(tmp_path, *made)["nodes"]
    feature = next(node for node in nodes if node["feature_type"] == "cross layer transcoder")
    layer, number, _ = map(int, feature["node_id"].split("_"))
    assert feature["feature"] == cantor(layer, number)
    assert [cantor(0, 0), cantor(0, 1), cantor(1, 0), cantor(2, 3)] == [0, 2, 1, 18]


@pytest.mark.parametrize("label", ["(p=", 'a "(p=9)"', "", "\ud800", "</script>"])
def test_pages_find_a_targets_probability(label: str, tmp_path: Path) -> None:
    graph, pruned = random_graph(targets=(Target(label, 7, 0.25),))
    nodes = written(tmp_path, graph, pruned)["nodes"]
    clerp = next(node["clerp"] for node in nodes if node["feature_type"] == "logit")
    # As both pages read it.
    assert float(clerp.split("(p=")[1].split(")")[0]) == 0.25


def test_a_direction_gets_an_id_beyond_the_vocabulary(tmp_path: Path) -> None:
    graph, pruned = random_graph(targets=(Target(" a", 5, 0.5), Target("a − b", None, 0.5)))
    with pytest.raises(InputError, match="target 1 of the graph is a direction; give vocab_size"):
        written(tmp_path, graph, pruned)
    nodes = written(tmp_path, graph, pruned, vocab_size=1000)["nodes"]
    assert [n["feature"] for n in nodes if n["feature_type"] == "logit"] == [5, 1001]


def test_labels_scores_pins_and_supernodes(made, tmp_path: Path) -> None:
    graph, pruned = made
    kept = [node for node in kept_nodes(graph, pruned) if node.kind == "feature"]
    first, second, third = kept[:3]
    data = written(
        tmp_path,
        graph,
        pruned,
        labels={(first.layer, first.feature): "Texas"},
        scores={
            (first.layer, first.feature): {"detection": 0.93, "fuzzing": None},
            (second.layer, second.feature): {"detection": None},
        },
        pinned=[first.number, third.number],
        supernodes=[("states", [first.number, second.number])],
    )
    clerps = {node["node_id"]: node["clerp"] for node in data["nodes"]}
    assert clerps[first.id] == "Texas [detection 0.930]"
    assert clerps[second.id] == ""  # undefined is not shown as a number
    assert data["qParams"]["pinnedIds"] == [first.id, third.id]
    assert data["qParams"]["supernodes"] == [["states", first.id, second.id]]
    read = read_json(tmp_path / "graph.json")
    assert read.pinned == (first.id, third.id)
    assert read.supernodes == (("states", (first.id, second.id)),)
    assert len(read.links) == len(data["links"])
    assert list(read.nodes) == list(clerps)


def test_ones_own_features_are_not_hidden_by_a_version(made, tmp_path: Path) -> None:
    about = written(tmp_path, *made, feature_json_base_url="https://example.org/f")["metadata"]
    assert about["feature_details"] == {"feature_json_base_url": "https://example.org/f"}
    assert "schema_version" not in about
    read_json(tmp_path / "graph.json")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"slug": "a/b"}, r"slug 'a/b': use letters"),
        ({"slug": ""}, r"slug '': use letters"),
        ({"metadata": {"scan": "x"}}, "metadata: scan is written anyway"),
        ({"pinned": [-1]}, "pinned: node -1 is not kept"),
        ({"supernodes": [("s", [10**6])]}, "supernode 's': node 1000000 is not kept"),
    ],
)
def test_what_cannot_be_written_is_refused(made, tmp_path: Path, options, sentence) -> None:
    with pytest.raises(InputError, match=sentence):
        written(tmp_path, *made, **options)
    assert not list(tmp_path.iterdir())


def test_numbers_that_are_not_finite_are_refused(made, tmp_path: Path) -> None:
    graph, pruned = made
    rows = graph.rows.copy()
    rows[pruned.edges] = np.nan
    with pytest.raises(ValueError, match="weight of a kept edge"):
        written(tmp_path, replace(graph, rows=rows), pruned)
    with pytest.raises(ValueError, match="influence is not finite"):
        written(tmp_path, graph, replace(pruned, influence=pruned.influence * np.nan))
    with pytest.raises(ValueError, match=r"pruned\.edges has shape"):
        written(tmp_path, graph, replace(pruned, edges=pruned.edges[1:]))
    assert not list(tmp_path.iterdir())


DAMAGE = {
    "is not JSON": lambda data: "{",
    "outermost part": lambda data: [],
    "the graph has no links": lambda data: {k: v for k, v in data.items() if k != "links"},
    "schema_version is 2": lambda data: data["metadata"].update(schema_version=2),
    "schema_version is True": lambda data: data["metadata"].update(schema_version=True),
    "metadata has no prompt_tokens": lambda data: data["metadata"].__delitem__("prompt_tokens"),
    "node 1 has no clerp": lambda data: data["nodes"][1].__delitem__("clerp"),
    "node 0 has no node_id": lambda data: data.update(nodes=[3]),
    "ctx_idx of node 0 is 'x'": lambda data: data["nodes"][0].update(ctx_idx="x"),
    "is there twice": lambda data: data["nodes"].append(data["nodes"][0]),
    "link 0 names nowhere": lambda data: data["links"][0].update(target="nowhere"),
    "weight of link 0 is 'big'": lambda data: data["links"][0].update(weight="big"),
    "the weight of link 0 is inf": lambda data: data["links"][0].update(weight=float("inf")),
    "no lists of ids": lambda data: data["qParams"].update(pinnedIds=[1]),
    "supernode of qParams has no label": lambda data: data["qParams"].update(supernodes=[[]]),
}


@pytest.mark.parametrize("sentence", DAMAGE)
def test_a_broken_file_is_refused_in_one_sentence(made, tmp_path: Path, sentence: str) -> None:
    data = written(tmp_path, *made)
    changed = DAMAGE[sentence](data)
    text = changed if isinstance(changed, str) else json.dumps(data if changed is None else changed)
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(InputError, match=sentence) as caught:
        read_json(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json: cannot be read"):
        read_json(tmp_path / "none.json")
