"""circuit-tracer's own server and page show a graph that is written here as they show their own.

The page loads d3, d3-jetpack, dagre and pako from the network. Here it is given the published
versions of the same, which `npm install` puts beside tests/helpers/their_page/package.json; all
else that leaves this machine fails the test.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra `parity`: pip install 'pie-jax[parity]'")
pytest.importorskip("circuit_tracer", reason="needs the extra `parity`")
pytest.importorskip(
    "playwright.sync_api", reason="needs the extra `browser`: pip install 'pie-jax[browser]'"
)

from circuit_tracer.frontend.local_server import serve
from circuit_tracer.utils.create_graph_files import create_graph_files
from graph_browser import PATIENCE_MS, chromium_browser, missing  # noqa: F401, a fixture
from their_graphs import PROMPTS, Both, across_layers, made_weights  # noqa: F401, fixtures

from pie_jax.features.promoted import promoted_tokens
from pie_jax.features.records import FeatureKey
from pie_jax.graph.attribute import attribute
from pie_jax.graph.listing import kept_nodes
from pie_jax.graph.prune import prune_graph
from pie_jax.graph.viewer import write_viewer_folder

pytestmark = [
    pytest.mark.parity,
    pytest.mark.browser,
    # What they hook has no input that needs gradients where nothing is before it.
    pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning"),
]
LIBRARIES = Path(__file__).parent.parent / "helpers" / "their_page"
# What the page asks the network for, and the files that it gets.
FILES = {
    "d3.js": ("d3/dist/d3.min.js", "d3-collection/dist/d3-collection.min.js"),
    "jetpack_2024-07-20.js": ("d3-jetpack/build/d3-jetpack.cjs", "../own_build.js"),
    "dagre.min.js": ("dagre/dist/dagre.min.js",),
    "pako.min.js": ("pako/dist/pako.min.js",),
    # Reloads the page while it is developed; reads arrays that no graph has.
    "hotserver-client-ws.js": (),
    "npy_v0.js": (),
}
# Of random weights, tokens hold most influence.
SHARES = (0.95, 0.98)
NODES = ".link-graph text.node"


@pytest.fixture(scope="module")
def viewer(folder: Path, across: Both, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one prompt's graph, written here (`ours`) and by circuit-tracer (`theirs`)."""
    model, transcoder, tracer = across
    out = tmp_path_factory.mktemp("viewer")
    graph = attribute(model, transcoder, PROMPTS[0], features=150)
    pruned = prune_graph(graph, *SHARES)
    keys = sorted({FeatureKey(*one.key) for one in kept_nodes(graph, pruned) if one.key})
    found = promoted_tokens(model, transcoder, keys, 8)
    promoted = {key: [one] for key, one in zip(keys, found, strict=True)}
    write_viewer_folder(
        out, graph, pruned, slug="ours", scan="made", node_threshold=SHARES[0],
        edge_threshold=SHARES[1], promoted=promoted,
    )  # fmt: skip
    theirs = tracer.graph(model.tokenizer.encode(PROMPTS[0]), 150)
    theirs.cfg.tokenizer_name = str(folder / "model")
    create_graph_files(theirs, "theirs", str(out), "made", *SHARES)
    return out


@pytest.fixture(scope="module")
def address(viewer: Path) -> Iterator[str]:
    if not (LIBRARIES / "node_modules").is_dir():
        missing("the page's libraries are not there; run `npm install` in tests/helpers/their_page")
    server = serve(str(viewer), port=0)
    yield f"http://localhost:{server.httpd.server_address[1]}"
    server.stop()


def read(viewer: Path, slug: str) -> tuple[dict[str, Any], dict[tuple[str, str], float]]:
    """Return a file's nodes and the weights of its links, errors by the names that we give them."""
    data = json.loads((viewer / f"{slug}.json").read_text())
    names = {}
    for node in data["nodes"]:
        error = node["feature_type"] == "mlp reconstruction error"
        own = f"err_{node['layer']}_{node['ctx_idx']}" if error else node["node_id"]
        # Two of theirs may have one id: these links could not be told apart.
        assert node["node_id"] not in names
        names[node["node_id"]] = own
    nodes = {names[node["node_id"]]: node for node in data["nodes"]}
    links = {
        (names[link["source"]], names[link["target"]]): link["weight"] for link in data["links"]
    }
    return nodes, links


def drawn(nodes: dict[str, Any], links: dict[tuple[str, str], float]) -> tuple[int, int]:
    """Return how many nodes and links the page draws: it leaves out the node with which the share
    of influence is reached, which pruning keeps."""
    out = {
        name
        for name, node in nodes.items()
        if node["feature_type"] not in ("embedding", "logit") and node["influence"] > SHARES[0]
    }
    assert len(out) == 1
    return len(nodes) - len(out), sum(not out & set(ends) for ends in links)


def test_files_hold_the_same_nodes_and_links(viewer: Path):
    (nodes, links), (other_nodes, other_links) = (read(viewer, one) for one in ("ours", "theirs"))
    assert set(nodes) == set(other_nodes)
    for name, node in nodes.items():
        other = other_nodes[name]
        for key in ("layer", "ctx_idx", "feature_type", "feature", "is_target_logit"):
            assert node[key] == other[key], (name, key)
        for key in ("influence", "activation", "token_prob"):
            given = [np.nan if one[key] is None else one[key] for one in (node, other)]
            # They write a target's influence; the page does not read it.
            if node["feature_type"] != "logit" or key != "influence":
                assert given[0] == pytest.approx(given[1], rel=1e-4, abs=1e-5, nan_ok=True), name
    assert len(links) > 100
    assert set(links) == set(other_links)
    weights = np.array([[weight, other_links[ends]] for ends, weight in links.items()]).T
    np.testing.assert_allclose(*weights, atol=5e-4, rtol=1e-5)


def test_their_page_shows_both_alike(viewer: Path, address: str, chromium: Any):
    nodes, _ = read(viewer, "ours")
    target = next(name for name, node in nodes.items() if node["is_target_logit"])
    ours, theirs = (Shown(chromium, address, slug, target) for slug in ("ours", "theirs"))
    for slug, one in (("ours", ours), ("theirs", theirs)):
        assert (one.nodes, one.links) == drawn(*read(viewer, slug))
        assert one.wrong == []
    assert ours.types == theirs.types
    # The list of what acts on the target, with weights to three digits.
    assert len(ours.inputs) > 5
    assert ours.inputs == theirs.inputs


def test_their_page_shows_features_from_our_files(viewer: Path, address: str, chromium: Any):
    nodes, _ = read(viewer, "ours")
    name, node = next((k, v) for k, v in nodes.items() if v["feature_type"].startswith("cross"))
    one = Shown(chromium, address, "ours", name, wait=".feature-example-logits .token")
    (store,) = (viewer / "features").iterdir()
    record = json.loads((store / f"{node['feature']}.json").read_text())
    assert one.wrong == []
    assert f"Act: {node['activation']:.2f}" in one.details
    for token in record["top_logits"]:
        assert token.strip() in one.details


class Shown:
    """What the page shows of a graph, and what goes wrong in it."""

    def __init__(self, chromium: Any, address: str, slug: str, clicked: str, wait: str = NODES):
        self.wrong: list[str] = []
        page = chromium.new_page(viewport={"width": 1500, "height": 1000})
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda one: one.type in ("error", "warning") and self._note(one.text))
        page.on("pageerror", lambda error: self._note(str(error)))
        page.on("response", lambda one: one.status >= 400 and self._note(one.url))
        page.route(lambda url: not url.startswith(address), self._library)
        page.goto(f"{address}/index.html?slug={slug}&clickedId={clicked}")
        page.wait_for_selector(wait)
        self.nodes = page.locator(NODES).count()
        nodes = f"d3.selectAll('{NODES}').data()"
        self.links = page.evaluate(f"d3.sum({nodes}, (node) => node.sourceLinks.length)")
        self.types = sorted(page.evaluate(f"{nodes}.map((node) => node.feature_type)"))
        rows = page.locator(".input .feature-row").all_inner_texts()
        # They decode each token by itself, which takes its space away.
        self.inputs = sorted(text.replace("“ ", "“") for text in rows)
        self.details = page.locator(".feature-detail").inner_text()
        page.close()

    def _note(self, text: str) -> None:
        self.wrong.append(text)

    def _library(self, route: Any) -> None:
        name = route.request.url.split("/")[-1]
        if name not in FILES:
            self._note(f"asks for {route.request.url}")
            route.abort()
            return
        texts = ((LIBRARIES / "node_modules" / part).read_text() for part in FILES[name])
        route.fulfill(body="\n".join(texts), content_type="application/javascript")
