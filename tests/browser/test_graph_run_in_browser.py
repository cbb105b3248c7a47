"""The page that `graph_prompt` writes, in a browser: what nodes stand for, and what runs say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed; pip install 'pie-jax[browser]'"
)
from graph_browser import (
    Open,
    chromium_browser,  # noqa: F401, a fixture
    page_opener,  # noqa: F401, a fixture
)
from graph_helpers import tiny

import pie_jax

pytestmark = pytest.mark.browser


def test_a_graph_shows_promoted_tokens_and_measured_changes(
    open_page: Open,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What the page shows; the others are tested elsewhere, and each is compiled by itself.
    monkeypatch.setattr("pie_jax.graph.run.validate.FREEZES", ("nothing",))
    model, clt = tiny(tmp_path / "weights", "llama")
    found: Any = pie_jax.graph_prompt(
        model, clt, "w5 w9 w30 w12 w7 w21 w33", target="w4", distractor="w8", validate=2,
        out=tmp_path / "graph",
    )  # fmt: skip
    nodes = {node.number: node for node in found.nodes()}
    node = nodes[int(found.validation.node[0])]
    page = open_page(found.page)
    assert page.locator(".mark").count() == len(nodes)
    mark = page.locator(f'.mark[data-i="{list(nodes).index(node.number)}"]')
    mark.dispatch_event("click")
    details = page.locator("#details").inner_text()
    assert f"layer {node.layer}, feature {node.feature}, position {node.position}" in details
    assert "promotes" in details
    rows = page.locator("#details table").all_inner_texts()
    (measured,) = (text for text in rows if "predicted" in text)
    shown = [float(cell.replace("−", "-")) for cell in measured.split("\t")[-2:]]
    checked = found.validation
    expected = [checked.predicted[0, 0], checked.changes["nothing"][0, 0]]
    assert shown == pytest.approx(expected, abs=0.01)
