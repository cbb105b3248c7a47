"""A graph's JSON, its viewer folder and its tables: keys, ids, what is read back and refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from random_graphs import random_graph

from pie_jax.errors import InputError
from pie_jax.features.promoted import PromotedTokens, TokenEffect
from pie_jax.features.records import FeatureExamples, FeatureKey, Window
from pie_jax.features.texts import TokenText
from pie_jax.graph.json_file import cantor, read_json, write_json
from pie_jax.graph.listing import all_nodes, edge_influence, kept_edges, kept_nodes
from pie_jax.graph.tables import EDGES, NODES, read_tables, write_tables
from pie_jax.graph.types import Graph, Pruned, Target
from pie_jax.graph.viewer import LIST, quantiles, write_viewer_folder

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


@pytest.fixture(scope="module")
def made() -> tuple[Graph, Pruned]:
    return random_graph()


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


# --- the folder of circuit-tracer's page


def window(index: int, values: list[float]) -> Window:
    return Window(index, np.arange(len(values), dtype=np.int32), np.array(values, np.float32))


def read(one: Window) -> TokenText:
    tokens = tuple(f" t{token}" for token in one.tokens[1:])
    return TokenText(tokens, tuple(map(float, one.activations[1:])))


def examples_of(key: FeatureKey) -> FeatureExamples:
    strong, weak = window(0, [0, 1, 8, 0]), window(1, [0, 2, 0, 0])
    empty: list[tuple[Window, ...]] = [()] * 10
    deciles = (*empty[:2], (weak,), *empty[3:9], (strong,))
    return FeatureExamples(
        key=key,
        tokens_seen=1000,
        tokens_active=10,
        maximum=8.0,
        histogram=np.array([5, 3, 0, 2]),
        top=(strong, weak),
        deciles=deciles,
        inactive=(),
        neighbours=(),
        for_explaining=frozenset(),
        for_scoring=frozenset(),
    )


def test_a_viewer_folder_holds_what_the_page_asks_for(made, tmp_path: Path) -> None:
    graph, pruned = made
    folder = tmp_path / "viewer"
    kept = [node for node in kept_nodes(graph, pruned) if node.kind == "feature"]
    key = FeatureKey(kept[0].layer, kept[0].feature)
    effect = TokenEffect(3, " Texas", 0.5)
    promoted = {key: [PromotedTokens(*key, None, (effect,), (effect,))]}
    write_viewer_folder(folder, graph, pruned, slug="plain", scan="owner/repo")
    write_viewer_folder(
        folder,
        graph,
        pruned,
        slug="own",
        scan="owner/repo",
        examples={key: examples_of(key)},
        promoted=promoted,
        read=read,
    )
    listed = json.loads((folder / LIST).read_text())["graphs"]
    assert [one["slug"] for one in listed] == ["plain", "own"]
    assert [one["scan"] for one in listed] == ["owner/repo", "./graph_data/features/owner--repo"]
    for one in listed:
        assert json.loads((folder / f"{one['slug']}.json").read_text())["metadata"] == one
    store = folder / listed[1]["scan"].removeprefix("./graph_data/")
    names = {f"{cantor(node.layer, node.feature)}.json" for node in kept}
    assert {path.name for path in store.iterdir()} == names
    record = json.loads((store / f"{cantor(*key)}.json").read_text())
    assert record["top_logits"] == record["bottom_logits"] == [" Texas"]
    assert [group["quantile_name"] for group in record["examples_quantiles"]] == [
        "Top activations",
        "90 to 100% of the largest activation",
        "20 to 30% of the largest activation",
    ]
    example = record["examples_quantiles"][0]["examples"][0]
    assert example == {
        "tokens": [" t1", " t2", " t3"],
        "tokens_acts_list": [1.0, 8.0, 0.0],
        "train_token_ind": 1,
        "is_repeated_datapoint": False,
    }
    assert record["activation_frequency"] == 0.01
    bare = json.loads((store / f"{cantor(kept[1].layer, kept[1].feature)}.json").read_text())
    assert bare["examples_quantiles"] == bare["top_logits"] == []
    assert "act_max" not in bare
    # A graph that is written again takes its own place in the list.
    write_viewer_folder(folder, graph, pruned, slug="plain", scan="owner/repo")
    slugs = [one["slug"] for one in json.loads((folder / LIST).read_text())["graphs"]]
    assert slugs == ["own", "plain"]


def test_percentiles_are_upper_ends_of_steps() -> None:
    values = quantiles(np.array([5, 3, 0, 2]), 8.0)
    assert (len(values), values[49], values[50], values[79], values[80], values[99]) == (
        100,
        2.0,
        4.0,
        4.0,
        8.0,
        8.0,
    )


@pytest.mark.parametrize("text", ["{", "[]", '{"graphs": 3}', '{"graphs": [3]}'])
def test_a_broken_list_of_graphs_is_not_overwritten(made, tmp_path: Path, text: str) -> None:
    (tmp_path / LIST).write_text(text)
    with pytest.raises(InputError, match="is not a list of graphs"):
        write_viewer_folder(tmp_path, *made, **KEYS)
    assert (tmp_path / LIST).read_text() == text


# --- tables


def test_tables_hold_the_kept_nodes_and_edges(made, tmp_path: Path) -> None:
    graph, pruned = made
    key = next((n.layer, n.feature) for n in kept_nodes(graph, pruned) if n.kind == "feature")
    write_tables(tmp_path, [(0, graph, pruned), (4, graph, pruned)], {key: "Texas"})
    nodes, edges = read_tables(tmp_path)
    assert nodes.num_rows == 2 * pruned.nodes.sum()
    assert edges.num_rows == 2 * pruned.edges.sum()
    rows = [row for row in nodes.to_pylist() if row["prompt"] == 4]
    for row, node in zip(rows, kept_nodes(graph, pruned), strict=True):
        assert (row["node"], row["id"], row["kind"]) == (node.number, node.id, node.kind)
        assert (row["label"] == "Texas") == ((node.layer, node.feature) == key)
        assert (row["probability"] is None) == (node.kind != "target")
        assert (row["influence"] is None) == (node.kind == "target")
    first = edges.to_pylist()[0]
    assert first["weight"] == kept_edges(graph, pruned).weight[0]


def test_shares_are_of_the_whole_row_and_undefined_without_one(made, tmp_path: Path) -> None:
    graph, pruned = made
    edges = kept_edges(graph, pruned)
    kept = np.bincount(edges.target, edges.share, graph.node_count)
    assert kept.max() <= 1 + 1e-6  # less than 1: what was pruned counts
    rows = graph.rows * 0
    write_tables(tmp_path, [(0, replace(graph, rows=rows), pruned)])
    _, table = read_tables(tmp_path)
    assert table["share"].null_count == table.num_rows


def test_influence_of_an_edge_is_what_flows_through_it() -> None:
    # token -> feature 0 -> feature 1 -> target, and feature 0 -> target; position 0 only.
    graph = Graph(
        tokens=("a",),
        token_ids=np.array([1]),
        layers=2,
        layer=np.array([0, 1]),
        position=np.array([0, 0]),
        feature=np.array([5, 6]),
        activation=np.ones(2, np.float32),
        targets=(Target("b", 2, 0.5),),
        rows=np.array(
            [[0, 0, 0, 0, 2, 0], [-3, 0, 0, 0, 0, 0], [1, 3, 0, 0, 0, 0]], dtype=np.float32
        ),
    )
    pruned = Pruned(np.ones(6, bool), graph.rows != 0, np.linspace(0, 1, 6))
    edges = kept_edges(graph, pruned)
    found = dict(
        zip(zip(edges.source, edges.target, strict=True), edge_influence(graph, edges), strict=True)
    )
    expected = {(4, 0): 0.5, (0, 1): 0.375, (0, 5): 0.125, (1, 5): 0.375}
    assert found == pytest.approx(expected)


def test_tables_of_another_kind_are_refused(made, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no table of a graph"):
        read_tables(tmp_path)
    write_tables(tmp_path, [(0, *made)])
    (tmp_path / EDGES).replace(tmp_path / NODES)
    with pytest.raises(InputError, match="has other columns"):
        read_tables(tmp_path)


def test_texts_that_are_no_unicode_reach_the_tables(tmp_path: Path) -> None:
    graph, pruned = random_graph(tokens=("<bos>", "\ud800", "b"))
    write_tables(tmp_path, [(0, graph, pruned)])
    nodes, _ = read_tables(tmp_path)
    assert "\\ud800" in nodes["text"].to_pylist()
