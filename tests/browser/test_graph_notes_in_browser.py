"""What a task's graph and a difference add to the page, in a browser."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed; pip install 'pie-jax[browser]'"
)
from graph_browser import (
    Open,
    chromium_browser,  # noqa: F401, a fixture
    features,
    mark,
    page_opener,  # noqa: F401, a fixture
)
from random_graphs import random_graph

from pie_jax.graph.page import write_page
from pie_jax.graph.types import Corrupted, Notes, Target

pytestmark = pytest.mark.browser


def test_notes_stand_beside_a_node_and_its_edges(open_page: Open, tmp_path: Path) -> None:
    graph, pruned = random_graph(targets=(Target("A − B", None, 1.0),))
    notes = Notes(
        nodes={"prompts": np.where(np.arange(graph.node_count) < 30, 0.5, np.nan)},
        edges={
            "a": np.full(graph.rows.shape, 1.25),
            "b": np.full(graph.rows.shape, np.nan),
        },
    )
    other = Corrupted(tuple(reversed(graph.tokens)), graph.activation)
    path = tmp_path / "graph.html"
    write_page(path, replace(graph, corrupted=other), pruned, notes=notes)
    # A difference of two tokens has no probability.
    page = open_page(path, viewport={"width": 900, "height": 900})
    assert page.locator("#details-title").inner_text() == "A − B"
    assert "prompts" not in page.locator("#details > .soft").inner_text()
    assert "probability" not in page.locator("#details").inner_text()
    entry = page.locator("#details .entry").first
    assert "a 1.25, b –" in entry.inner_text()
    box = entry.locator(".noted").bounding_box()
    assert box["x"] + box["width"] <= 900
    page.locator(mark(graph, pruned, features(graph, pruned)[0])).dispatch_event("click")
    details = page.locator("#details").inner_text()
    assert "change of activation" in details
    assert "prompts 50.0%" in details
    assert " − " in page.locator(".prompt").inner_text()
