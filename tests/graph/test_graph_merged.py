"""Graphs of several prompts as one, and the difference of two: on arrays, then on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from graph_helpers import tiny

import pie_jax
from pie_jax.errors import InputError
from pie_jax.graph.merged.columns import columns
from pie_jax.graph.merged.difference import difference
from pie_jax.graph.merged.merge import Named, merge
from pie_jax.graph.page import write_page
from pie_jax.graph.prune import prune_graph
from pie_jax.graph.tables import read_tables, write_tables
from pie_jax.graph.types import Graph, Target
from pie_jax.tasks import Pair, write_pairs

END = (Target("t", None, 1.0),)


def small(features: list[tuple[int, int, int]], rows: dict, tokens: tuple[str, ...]) -> Graph:
    """A graph of one layer's errors, whose `rows` are by (row, column) of features and target."""
    layer, position, feature = np.array(features).reshape(-1, 3).T
    count, length = len(features), len(tokens)
    out = np.zeros((count + 1, count + 3 * length + 1), np.float32)
    for place, value in rows.items():
        out[place] = value
    return Graph(
        tokens=tokens, token_ids=np.arange(length), layers=2, layer=layer, position=position,
        feature=feature, activation=np.arange(1, count + 1, dtype=np.float32), targets=END,
        rows=out,
    )  # fmt: skip


@pytest.fixture
def two() -> list[Named]:
    """Two prompts: feature 0:7 at the name in both, 1:9 at the end; 1:8 in the second alone."""
    # Node 2 + l T + p is an error, 2 + 2 T + p a token; the second has the name twice.
    first = small(
        [(0, 1, 7), (1, 2, 9)],
        {(0, 9): 1.0, (1, 0): 2.0, (2, 1): 3.0, (2, 2): 0.5},
        ("s", "A", "to"),
    )
    second = small(
        [(0, 1, 7), (0, 2, 7), (1, 3, 8), (1, 3, 9)],
        {(0, 13): 1, (1, 14): 1, (2, 13): 1, (3, 0): 1, (3, 1): 5, (4, 3): 1, (4, 2): -1},
        ("s", "B", "B", "to"),
    )  # fmt: skip
    return [Named(first, ("s", "name", "end")), Named(second, ("s", "name", "name", "end"))]


def test_nodes_of_one_name_are_one_and_prompts_are_averaged(two: list[Named]):
    graph, notes = merge(two, END)
    assert graph.tokens == ("s", "name", "end")
    places = list(
        zip(graph.layer.tolist(), graph.position.tolist(), graph.feature.tolist(), strict=True)
    )
    assert places == [(0, 1, 7), (1, 2, 8), (1, 2, 9)]
    # Both occurrences of 0:7 in the second prompt write to 1:9 there: 1 + 5.
    assert graph.rows[2, 0] == (2.0 + 6.0) / 2
    assert graph.rows[3].tolist()[:4] == [0, -0.5, 2.0, 0.25]
    assert graph.activation.tolist() == [(1 + 1 + 2) / 2, 3 / 2, (2 + 4) / 2]
    assert notes.nodes["prompts"][:3].tolist() == [1, 0.5, 1]
    for edge, found in {(2, 0): (1, 4, np.sqrt(8)), (3, 1): (0.5, -1, np.nan)}.items():
        each = [notes.edges[name][edge] for name in ("prompts", "mean", "spread")]
        assert each == pytest.approx(found, nan_ok=True)
    # What is in no prompt is undefined, and not 0.
    assert notes.edges["prompts"][0, 1] == 0
    assert np.isnan(notes.edges["mean"][0, 1])


def test_a_graph_alone_is_its_own_mean(two: list[Named]):
    graph, notes = merge(two[:1], END)
    np.testing.assert_array_equal(graph.rows, two[0].graph.rows)
    assert np.isnan(notes.edges["spread"]).all()
    with pytest.raises(InputError, match="there are none"):
        merge([], END)


def test_the_difference_is_edge_by_edge(two: list[Named]):
    kept = [prune_graph(one.graph, 1.0, 1.0) for one in two]
    graph, pruned, notes = difference(*two, *kept)
    assert graph.rows[2, 0] == 2.0 - 6.0
    assert graph.rows[3].tolist()[:4] == [0, 1.0, 2.0, 0.5]
    a, b = notes.edges["a"], notes.edges["b"]
    assert (a[2, 0], b[2, 0], a[3, 1], b[3, 1]) == (2, 6, 0, -1)
    # The first prompt lacks 1:8: nothing is known of what acts on it there.
    assert np.isnan(a[1]).all()
    assert not np.isnan(b).any()
    assert (notes.nodes["a"][0], notes.nodes["b"][0]) == (1, 3)
    # What either keeps stays, with its stronger influence.
    assert pruned.edges[2, 0]
    assert pruned.edges[3, 1]
    assert pruned.nodes[:3].all()
    same, _, _ = difference(two[0], two[0], kept[0], kept[0])
    assert not same.rows.any()


def test_notes_reach_tables_and_page(two: list[Named], tmp_path: Path):
    graph, notes = merge(two, END)
    pruned = prune_graph(graph, 1.0, 1.0)
    write_tables(tmp_path, [(0, graph, pruned)], notes=notes)
    nodes, edges = read_tables(tmp_path)
    assert nodes["prompts"].to_pylist()[:3] == [1, 0.5, 1]
    rows = {(row["source"], row["target"]): row for row in edges.to_pylist()}
    end = graph.node_count - 1
    assert rows[0, 2]["spread"] == pytest.approx(np.sqrt(8))
    assert rows[1, end]["spread"] is None
    write_page(tmp_path / "graph.html", graph, pruned, notes=notes)
    text = (tmp_path / "graph.html").read_text(encoding="utf-8")
    data = json.loads(text.partition('id="data">')[2].partition("</script>")[0])
    assert data["notes"]["prompts"][:3] == [1, 0.5, 1]
    assert sorted(data["edges"]["notes"]) == ["mean", "prompts", "spread"]
    assert None in data["edges"]["notes"]["spread"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory):
    return tiny(tmp_path_factory.mktemp("llama"), "llama")


def test_positions_have_roles(llama):
    tokenizer = llama[0].tokenizer
    tokens = tokenizer.encode("w5 w9 w30 w5 w7 w9 w33")
    other = tokenizer.encode("w5 w9 w30 w8 w7 w9 w33")
    answers = (tokenizer.answer_id("w9"), None)
    found = columns(tokenizer, tokens, "role", answers=answers, corrupted=other)
    assert found == (
        "start", "␣w5", "target", "after-target", "changed", "after-changed", "target-2", "end"
    )  # fmt: skip
    assert columns(tokenizer, tokens, "position")[-1] == "7"
    assert columns(tokenizer, tokens, "token").count("␣w9") == 2
    with pytest.raises(InputError, match="--merge `x`: is not one of role, token, position"):
        columns(tokenizer, tokens, "x")


def test_two_prompts(llama, tmp_path: Path):
    model, clt = llama
    texts = ("w5 w9 w30 w12 w7 w21 w33", "w5 w9 w30 w8 w7 w22 w33")
    given = {"target": "w4", "distractor": "w8"}
    found = pie_jax.prompt_difference(
        model, clt, *texts, **given, features=20, nodes=1, edges=1, out=tmp_path / "d"
    )
    both = [
        pie_jax.attribution_graph(model, clt, text, targets=("w4", "w8"), features=20)
        for text in texts
    ]
    # Embeddings' direct effects on the target, token by token.
    last = [one.rows[-1, -1 - len(one.tokens) : -1] for one in both]
    length = len(both[0].tokens)
    np.testing.assert_allclose(found.graph.rows[-1, -1 - length : -1], last[0] - last[1], atol=1e-6)
    assert found.graph.tokens[4] == " w12/ w8"
    assert (found.replacement, found.completeness) == (None, None)
    links = json.loads((tmp_path / "d" / "graph.json").read_text())["links"]
    assert set(links[0]["notes"]) == {"a", "b"}


def test_a_task_of_a_run(llama, tmp_path: Path):
    model, clt = llama
    pairs = [
        Pair("w5 w9 w30 w12 w7 w21 w33", ("w5 w9 w30 w8 w7 w22 w33",), "w4", "w8"),
        Pair("w6 w9 w30 w12 w7 w21 w33", ("w6 w9 w30 w8 w7 w22 w33",), "w8", "w4"),
    ]
    run = tmp_path / "run"
    result = pie_jax.prune(model, clt, pairs, methods=("fap",), budgets=(6,), out=run)
    write_pairs(run / "pairs.jsonl", pairs)
    weights = {"model": model, "transcoder": clt}
    found = pie_jax.task_graph(run, features=5, merged="position", **weights)
    each = [
        pie_jax.attribution_graph(
            model, clt, pair.clean, targets=(pair.target, pair.distractor),
            features=list(dict.fromkeys(zip(found.graph.layer, found.graph.feature, strict=True))),
        )
        for pair in pairs
    ]  # fmt: skip
    mean = sum(one.rows[-1, -9:-1] for one in each) / 2
    np.testing.assert_allclose(found.graph.rows[-1, -9:-1], mean, atol=1e-6)
    assert found.graph.targets[0].label == "target − distractor"
    assert len({*zip(found.graph.layer, found.graph.feature, strict=True)}) <= 5
    assert found.page == run / "graph-task" / "graph.html"
    nodes, edges = read_tables(run / "graph-task")
    assert {"prompts"} < set(nodes.schema.names)
    assert {"prompts", "mean", "spread"} < set(edges.schema.names)
    other = pie_jax.task_difference(run, run, features=5, merged="position", **weights)
    assert not other.graph.rows.any()
    changes = pie_jax.task_graph(run, features=5, changes=True, out=tmp_path / "c", **weights)
    assert changes.graph.rows.any()
    with pytest.raises(InputError, match="--prompts 0: must be at least 1"):
        pie_jax.task_graph(run, prompts=0, **weights)
    with pytest.raises(InputError, match="--budget 7 is not in this run"):
        pie_jax.task_graph(run, budget=7, **weights)
    # Changes are what pruning's scores are made of.
    rows = [row for row in result.scores.to_pylist() if row["prompt"] == 0]
    graph = pie_jax.attribution_graph(
        model, clt, pairs[0].clean, corrupted=pairs[0].corrupted[0], targets=("w4", "w8"),
        features=[(row["layer"], row["position"], row["feature"]) for row in rows],
    )  # fmt: skip
    places = zip(graph.layer.tolist(), graph.position.tolist(), graph.feature.tolist(), strict=True)
    edges = dict(zip(places, graph.rows[-1], strict=False))
    found = [edges[row["layer"], row["position"], row["feature"]] for row in rows]
    np.testing.assert_allclose(found, [row["fap"] for row in rows], atol=1e-5)
    assert np.abs(found).max() > 0.01
