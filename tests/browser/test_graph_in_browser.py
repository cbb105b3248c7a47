"""The page of a graph in a real browser: everything that a reader does with it, from a file."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="needs the extra `browser`: pip install 'pie-jax[browser]'"
)

from graph_browser import (  # noqa: E402, F401
    Open,
    chromium_browser,
    features,
    fragment_of,
    link_of,
    made_page,
    mark,
    page_opener,
    pin,
)
from random_graphs import random_graph, strongest, with_twins  # noqa: E402

from pie_jax.graph.listing import kept_edges, kept_nodes  # noqa: E402
from pie_jax.graph.page import write_page  # noqa: E402
from pie_jax.graph.page.link import read_link  # noqa: E402
from pie_jax.graph.types import Graph, Pruned, Target  # noqa: E402

pytestmark = pytest.mark.browser


def test_opens_from_a_file_with_every_node(made, open_page: Open) -> None:
    path, _, pruned = made
    page = open_page(path)
    assert page.title() == "A graph"
    assert page.locator(".mark").count() == pruned.nodes.sum()
    assert page.locator("#edges-shown").inner_text() == "400 of 900"
    for token in ("<bos>", "␣Dallas"):
        assert token in page.locator("#marks .token-label").all_inner_texts() or (
            page.locator("#marks").text_content().count(token) > 0
        )
    # The graph's first target is what one looks at first.
    assert page.locator("#details-title").inner_text().startswith("␣Austin (62")


def test_hovering_shows_label_scores_tokens_and_windows(made, open_page: Open) -> None:
    path, graph, pruned = made
    page = open_page(path)
    node = features(graph, pruned)[1]
    assert page.locator("#tip").is_hidden()
    page.hover(mark(graph, pruned, node))
    tip = page.locator("#tip")
    words = tip.inner_text()
    assert re.search("words like .* before", words)
    assert f"layer {node.layer}, feature {node.feature}, position {node.position}" in words
    assert "detection 0." in words
    assert "promotes" in words
    assert tip.locator(".window").count() == 2
    assert tip.locator(".window [class^=a]").count() > 0
    page.mouse.move(5, 5)
    assert tip.is_hidden()


def test_a_click_pins_and_another_unpins(made, open_page: Open) -> None:
    path, graph, pruned = made
    page = open_page(path)
    one, two = features(graph, pruned)[:2]
    page.click(mark(graph, pruned, one))
    page.click(mark(graph, pruned, two))
    assert page.locator(".mark.pinned").count() == page.locator(".box").count() == 2
    assert f"feature {two.feature}," in page.locator("#details").inner_text()
    # The first is pinned but not looked at: a click looks, the next one unpins.
    page.click(mark(graph, pruned, one))
    assert page.locator(".box").count() == 2
    page.click(mark(graph, pruned, one))
    assert page.locator(".box").count() == 1
    page.click("#clear")
    assert page.locator(".box").count() == 0


def test_strongest_inputs_and_outputs_are_listed(made, open_page: Open) -> None:
    path, graph, pruned = made
    edges = kept_edges(graph, pruned)
    ends = (edges.source, edges.target)
    node = max(
        features(graph, pruned), key=lambda one: min(np.sum(end == one.number) for end in ends)
    )
    page = open_page(path, f"#node={node.id}")
    lists = page.locator("#details .sides > div")
    for place, end in ((0, edges.target), (1, edges.source)):
        own = np.flatnonzero(end == node.number)
        share = float(edges.share[own].max())
        weight = float(edges.weight[own][edges.share[own].argmax()])
        entries = lists.nth(place).locator(".entry")
        assert entries.count() == min(len(own), 12)
        shown = entries.first.locator(".share").inner_text().replace("−", "-")
        first, second = shown.replace("%", "").split(" · ")
        assert abs(float(first)) == pytest.approx(100 * share, rel=0.01)
        assert float(second) == pytest.approx(weight, rel=0.01)
        bar = entries.first.locator(".bar")
        assert bar.get_attribute("class") == f"bar {'negative' if weight < 0 else 'positive'}"
    # An entry leads to its node.
    lists.nth(1).locator(".entry").first.click()
    assert f"feature {node.feature}," not in page.locator("#details > p").first.inner_text()


def test_search_finds_labels_and_a_found_node_is_pinned(made, open_page: Open) -> None:
    path, graph, pruned = made
    page = open_page(path)
    node = features(graph, pruned)[3]
    page.keyboard.press("/")
    page.keyboard.type(f"{node.layer}/{node.feature}")
    found = page.locator("#found button")
    assert found.count() == page.locator(".mark.match").count() == 1
    found.click()
    assert page.locator(".mark.pinned").count() == 1
    page.fill("#query", "no such node")
    assert page.locator("#found").inner_text() == "Nothing found."
    page.fill("#query", "")
    assert page.locator("#found").is_hidden()


def test_sliders_choose_how_much_is_shown(made, open_page: Open) -> None:
    path, graph, pruned = made
    page = open_page(path)
    page.locator("#nodes").fill("50")
    kept = [
        node
        for node in kept_nodes(graph, pruned)
        if node.kind in ("token", "target") or pruned.influence[node.number] <= 0.5
    ]
    assert page.locator(".mark").count() == len(kept)
    assert page.locator("#nodes-shown").inner_text() == f"50%: {len(kept)} of {pruned.nodes.sum()}"
    page.locator("#errors").uncheck()
    assert page.locator(".mark.error").count() == 0
    page.locator("#edges").fill("0")
    assert page.locator("#edges-shown").inner_text() == "0 of 900"


def test_edges_are_drawn_in_the_colour_of_their_sign(open_page: Open, tmp_path: Path) -> None:
    graph, _ = random_graph(features=6, layers=3, targets=(Target(" a", 1, 0.9),))
    colour = """() => {
      const base = document.getElementById("base");
      const pixels = base.getContext("2d").getImageData(0, 0, base.width, base.height).data;
      let [blue, orange] = [0, 0];
      for (let i = 0; i < pixels.length; i += 4) if (pixels[i + 3] > 40) {
        if (pixels[i + 2] > pixels[i] + 40) blue++;
        if (pixels[i] > pixels[i + 2] + 40) orange++;
      }
      return [blue, orange];
    }"""
    for sign, scheme in ((1, "light"), (-1, "light"), (1, "dark"), (-1, "dark")):
        rows = sign * np.abs(graph.rows)
        one = Graph(**{**vars(graph), "rows": rows})
        write_page(tmp_path / "graph.html", one, strongest(one, 20))
        blue, orange = open_page(tmp_path / "graph.html", color_scheme=scheme).evaluate(colour)
        assert (blue > 0, orange > 0) == (sign > 0, sign < 0)


def test_nodes_are_grouped_by_hand(made, open_page: Open) -> None:
    path, graph, pruned = made
    chosen = features(graph, pruned)[:3]
    page = open_page(path, pin(*chosen))
    assert page.locator("#group").is_disabled()
    boxes = page.locator(".pins input")
    boxes.nth(0).check()
    boxes.nth(1).check()
    page.fill("#group-name", "two, together")
    page.click("#group")
    assert page.locator(".box").count() == 2
    assert page.locator(".box.group").text_content() == "two, together2 nodes"
    assert read_link(link_of(page), graph) == (
        [node.number for node in chosen],
        [("two, together", [node.number for node in chosen[:2]])],
    )
    page.locator(".row input[aria-label='Name of the group']").fill("renamed")
    page.keyboard.press("Enter")
    page.wait_for_selector(".box.group >> text=renamed")
    page.click("text=ungroup")
    assert page.locator(".box").count() == 3


def profile_cosine(graph: Graph, pruned: Pruned, a: int, b: int) -> float:
    """Cosine of signed shares, inputs and outputs, worked out on whole arrays."""
    edges = kept_edges(graph, pruned)
    signed = np.sign(edges.weight) * edges.share
    matrix = np.zeros((graph.node_count, graph.node_count))
    matrix[edges.target, edges.source] = signed
    sides = [(m[a], m[b]) for m in (matrix, matrix.T)]
    return float(
        np.mean([x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in sides if x.any()])
    )


def test_groups_are_suggested_with_the_measured_cosine(open_page: Open, tmp_path: Path) -> None:
    graph, _ = random_graph(features=50, layers=6)
    graph, pruned, pairs = with_twins(graph, 2000, most=3)
    write_page(tmp_path / "graph.html", graph, pruned)
    nodes = {node.number: node for node in kept_nodes(graph, pruned)}
    page = open_page(tmp_path / "graph.html", pin(*(nodes[i] for pair in pairs for i in pair)))
    page.click("#suggest")
    candidates = page.locator(".candidates li")
    assert candidates.count() == len(pairs)
    assert "at least 0.60 (complete link)" in page.locator("#groups").inner_text()
    cosines = sorted((profile_cosine(graph, pruned, *pair) for pair in pairs), reverse=True)
    for i, cosine in enumerate(cosines):
        shown = re.search(r"inside (\d\.\d+); highest", candidates.nth(i).inner_text())
        assert shown is not None
        assert float(shown[1]) == pytest.approx(cosine, abs=2e-3)
    candidates.first.locator("button").click()
    assert page.locator(".box.group").count() == 1
    assert page.locator(".box").count() == 2 * len(pairs) - 1


def test_a_link_restores_the_view(made, open_page: Open) -> None:
    path, graph, pruned = made
    page = open_page(path)
    one, two, three = features(graph, pruned)[:3]
    page.locator("#nodes").fill("90")
    page.locator("#edges").fill("50")
    page.locator("#errors").uncheck()
    for node in (one, two, three):
        page.click(mark(graph, pruned, node))
    page.locator(".pins input").nth(0).check()
    page.locator(".pins input").nth(2).check()
    page.click("#group")
    page.fill("#query", "Dallas & Co ü")
    link = link_of(page)
    again = open_page(path, fragment_of(page))
    for name in ("#nodes-shown", "#edges-shown", "#details", "#pinned", "#groups"):
        assert again.locator(name).inner_text() == page.locator(name).inner_text()
    assert again.input_value("#query") == "Dallas & Co ü"
    assert not again.locator("#errors").is_checked()
    assert link_of(again) == link
    # Going to another link of the open page restores that one.
    again.evaluate(f"location.hash = 'pin={one.id}'")
    sync_api.expect(again.locator(".box")).to_have_count(1)
    assert again.input_value("#query") == ""


@pytest.mark.parametrize(
    "fragment",
    ["#pin=no_1_2,x", "#group=a,b,c", "#node=nothing", "#share=abc&edges=-5&least=9", "#%E0%A4%A"],
)
def test_a_foreign_link_says_what_is_missing(made, open_page: Open, fragment: str) -> None:
    page = open_page(made[0], fragment)
    note = page.locator("#note").inner_text()
    if fragment.startswith("#pin"):
        assert note == "2 nodes of the link are not in this graph."
    elif fragment.startswith("#node"):
        assert note == "1 node of the link is not in this graph."
    assert page.locator(".box").count() == 0
