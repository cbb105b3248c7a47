"""The page of a graph as text: self-contained, escaped, and its data what the graph holds."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from page_helpers import OUTSIDE, Page
from random_graphs import WORDS, dressed, random_graph

from pie_jax.errors import InputError, PieError
from pie_jax.graph.listing import kept_edges, kept_nodes
from pie_jax.graph.page import Measured, write_page
from pie_jax.graph.page.html import SCRIPTS, embedded
from pie_jax.graph.page.link import read_link
from pie_jax.graph.types import Target

HOSTILE = "</script><script>alert(1)</script><!--\u202e&lt;'\""
FOLDER = Path(write_page.__code__.co_filename).parent


@pytest.fixture(scope="module")
def made():
    return random_graph()


def page_of(tmp_path: Path, graph, pruned, **options) -> str:
    write_page(tmp_path / "graph.html", graph, pruned, **options)
    return (tmp_path / "graph.html").read_text(encoding="utf-8")


def data_of(page: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_page_is_well_formed_and_nothing_comes_from_outside(made, tmp_path: Path) -> None:
    page = page_of(tmp_path, *made, **dressed(*made))
    parsed = Page(page)
    tags = [tag for tag, _ in parsed.seen]
    assert not {"link", "img", "iframe", "object", "embed", "base"} & set(tags)
    # The name of SVG's elements is an address, and is not fetched.
    assert not OUTSIDE.search(page.replace('"http://www.w3.org/2000/svg"', ""))
    assert tags.count("script") == 2
    policy = next(a["content"] for t, a in parsed.seen if t == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_hostile_texts_are_data(tmp_path: Path) -> None:
    words = (*WORDS[:4], HOSTILE, "\ud800", "x" * 10_000)
    graph, pruned = random_graph(tokens=words, targets=(Target(HOSTILE, 3, 0.5),))
    page = page_of(tmp_path, graph, pruned, **dressed(graph, pruned, text=HOSTILE), title=HOSTILE)
    parsed = Page(page)
    assert [tag for tag, _ in parsed.seen].count("script") == 2
    assert "<script>alert" not in page
    assert "\u202e" not in page
    assert "\\u202e" in parsed.text()
    data = data_of(page)
    assert data["targets"][0][0].startswith("</script><script>alert(1)")
    assert data["tokens"][-1] == "x" * 10_000


def test_embedded_data_is_harmless_ascii() -> None:
    text = embedded({"a": "</script><!-- &amp; é \u2028 \ud800"})
    assert text.isascii()
    assert not set("<>&") & set(text)
    assert json.loads(text)["a"] == "</script><!-- &amp; é \u2028 \ud800"
    with pytest.raises(ValueError, match="not JSON compliant"):
        embedded([float("nan")])


def test_script_writes_texts_only_as_texts() -> None:
    files = {path.stem for path in (FOLDER / "script").glob("*.js")}
    assert files == set(SCRIPTS)
    for name in SCRIPTS:
        text = (FOLDER / "script" / f"{name}.js").read_text(encoding="utf-8")
        unsafe = r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function|</script"
        assert not re.search(unsafe, text), name


def test_edges_are_the_kept_ones_and_the_most_influential_come_first(made, tmp_path: Path) -> None:
    graph, pruned = made
    data = data_of(page_of(tmp_path, graph, pruned))
    names = [node[0] for node in data["nodes"]]
    assert names == [node.id for node in kept_nodes(graph, pruned)]
    edges, columns = kept_edges(graph, pruned), data["edges"]
    ids = {node.number: node.id for node in kept_nodes(graph, pruned)}
    expected = {
        (ids[s], ids[t]): w
        for s, t, w in zip(edges.source, edges.target, edges.weight, strict=True)
    }
    found = {
        (names[s], names[t]): w
        for s, t, w in zip(columns["source"], columns["target"], columns["weight"], strict=True)
    }
    assert found == pytest.approx(expected, rel=1e-3)
    assert columns["influence"] == sorted(columns["influence"], reverse=True)


def test_undefined_scores_and_missing_labels_are_not_numbers(made, tmp_path: Path) -> None:
    graph, pruned = made
    node = next(node for node in kept_nodes(graph, pruned) if node.key is not None)
    scores = {node.key: {"detection": None, "fuzzing": 0.75}}
    data = data_of(page_of(tmp_path, graph, pruned, scores=scores))
    assert data["features"][f"{node.layer}/{node.feature}"] == {
        "label": "",
        "scores": [["detection", "–"], ["fuzzing", "0.750"]],
        "windows": [],
        "tokens": [],
    }


def test_measurements_of_nodes_that_were_pruned_are_left_out(made, tmp_path: Path) -> None:
    graph, pruned = made
    gone = int(np.flatnonzero(~pruned.nodes)[0])
    kept = kept_nodes(graph, pruned)
    rows = [Measured(gone, 0, 0.0, 1.0, 1.0), Measured(kept[1].number, 1, 2.0, 0.5, None)]
    data = data_of(page_of(tmp_path, graph, pruned, measured=rows))
    assert data["measured"] == {"1": [[1, 2.0, 0.5, None]]}
    with pytest.raises(ValueError, match="target 9 is none of the graph's 2"):
        page_of(tmp_path, graph, pruned, measured=[Measured(gone, 9, 0.0, 1.0, 1.0)])


def test_examples_need_a_reader(made, tmp_path: Path) -> None:
    examples = dressed(*made)["examples"]
    with pytest.raises(ValueError, match="examples need `read`"):
        page_of(tmp_path, *made, examples=examples)


def test_a_folder_that_is_not_there_is_named(made, tmp_path: Path) -> None:
    with pytest.raises(PieError, match=r"none/graph\.html: cannot be written"):
        write_page(tmp_path / "none" / "graph.html", *made)


def test_graphs_without_edges_or_influence_are_written(made, tmp_path: Path) -> None:
    graph, pruned = made
    bare = replace(pruned, edges=np.zeros_like(pruned.edges))
    data = data_of(page_of(tmp_path, replace(graph, rows=0 * graph.rows), bare))
    assert data["edges"]["source"] == []
    zero = data_of(page_of(tmp_path, replace(graph, rows=0 * graph.rows), pruned))
    assert set(zero["edges"]["share"]) == {0}


def test_a_links_pins_and_groups_are_read(made) -> None:
    graph, pruned = made
    a, b, c = kept_nodes(graph, pruned)[:3]
    link = f"file:///x.html#share=80&pin={a.id}%2C{b.id},{c.id}&group={a.id}%2C{b.id}%2Cone%2C+two"
    assert read_link(link, graph) == (
        [a.number, b.number, c.number],
        [("one, two", [a.number, b.number])],
    )
    with pytest.raises(InputError, match="9_9_9 is no node of this graph"):
        read_link("x.html#pin=9_9_9", graph)
    with pytest.raises(InputError, match="pins no nodes"):
        read_link("x.html", graph)
