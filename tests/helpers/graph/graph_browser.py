"""A real browser, pages that are opened in it, and what tests of a graph's page look for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from random_graphs import dressed, random_graph, with_twins

from pie_jax.graph.listing import Node, kept_nodes
from pie_jax.graph.page import write_page
from pie_jax.graph.types import Graph, Pruned

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Clicks and hovers find their element at once, or never.
PATIENCE_MS = 5_000
# A console hint on how these tests read pixels.
HINT = "willReadFrequently"

Open = Callable[..., Any]


def missing(reason: str) -> NoReturn:
    """Skip a test for which something is not installed; in CI, where all of it is, fail."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module", name="chromium")
def chromium_browser() -> Iterator[Any]:
    """A Chromium, which runs until the file's tests are done."""
    from playwright import sync_api

    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        missing(f"none of {', '.join(NAMES)} is installed; on Debian, `apt-get install chromium`")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(name="open_page")
def page_opener(chromium: Any) -> Iterator[Open]:
    """A function that opens a page; whatever goes wrong in it, or is fetched, is a failure."""
    contexts, wrong = [], []

    def opened(path: Path, fragment: str = "", **options: Any) -> Any:
        options = {"viewport": {"width": 1400, "height": 1000}, **options}
        contexts.append(chromium.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda message: HINT in message.text or wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append("a dialog"), dialog.dismiss()))
        own = path.as_uri()
        page.on("request", lambda one: one.url.split("#")[0] == own or wrong.append(one.url))
        page.goto(own + fragment)
        page.wait_for_selector(".mark")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture(scope="module", name="made")
def made_page(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Graph, Pruned]:
    """A small graph with labels, scores, windows and measurements, and its page."""
    graph, _ = random_graph(features=50, layers=6)
    graph, pruned, _ = with_twins(graph, 900)
    path = tmp_path_factory.mktemp("graph") / "graph.html"
    write_page(path, graph, pruned, **dressed(graph, pruned), title="A graph")
    return path, graph, pruned


def features(graph: Graph, pruned: Pruned) -> list[Node]:
    return [node for node in kept_nodes(graph, pruned) if node.kind == "feature"]


def mark(graph: Graph, pruned: Pruned, node: Node) -> str:
    place = [one.number for one in kept_nodes(graph, pruned)].index(node.number)
    return f'.mark[data-i="{place}"]'


def link_of(page: Any) -> str:
    # `page.url` is told of a change some time after it.
    return page.evaluate("location.href")


def fragment_of(page: Any) -> str:
    return f"#{link_of(page).partition('#')[2]}"


def pin(*nodes: Node) -> str:
    return f"#pin={','.join(node.id for node in nodes)}"
