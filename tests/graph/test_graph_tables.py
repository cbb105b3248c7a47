"""The folder of circuit-tracer's page and a graph's tables: what is written, and read back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from random_graphs import made_graph, random_graph  # noqa: F401

from pie_jax.errors import InputError
from pie_jax.features.promoted import PromotedTokens, TokenEffect
from pie_jax.features.records import FeatureExamples, FeatureKey, Window
from pie_jax.features.texts import TokenText
from pie_jax.graph.json_file import cantor
from pie_jax.graph.listing import edge_influence, kept_edges, kept_nodes
from pie_jax.graph.tables import EDGES, NODES, read_tables, write_tables
from pie_jax.graph.types import Graph, Pruned, Target
from pie_jax.graph.viewer import LIST, quantiles, write_viewer_folder

KEYS = {"slug": "dallas", "scan": "owner/repo"}


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
