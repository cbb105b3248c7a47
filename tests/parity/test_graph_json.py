"""circuit-tracer's own classes accept the JSON of a graph, and its JSON is read here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the extra `parity`: pip install 'pie-jax[parity]'")
pytest.importorskip("circuit_tracer", reason="needs the extra `parity`")

from circuit_tracer.frontend.graph_models import Metadata, Model, Node, QParams
from circuit_tracer.frontend.utils import add_graph_metadata
from random_graphs import dressed, random_graph

from pie_jax.errors import InputError
from pie_jax.graph.json_file import read_json, write_json
from pie_jax.graph.listing import kept_nodes
from pie_jax.graph.viewer import LIST, write_viewer_folder

pytestmark = pytest.mark.parity


def test_circuit_tracer_accepts_the_file(tmp_path: Path) -> None:
    graph, pruned = random_graph()
    given = dressed(graph, pruned)
    path = tmp_path / "graph.json"
    labels, scores = given["labels"], given["scores"]
    write_json(path, graph, pruned, slug="a", scan="o/r", labels=labels, scores=scores)
    data = json.loads(path.read_text())
    model = Model.model_validate(data)
    # Its own names for features, tokens and targets; errors alone differ.
    nodes = {node.node_id: node for node in model.nodes}
    for node in kept_nodes(graph, pruned):
        if node.kind == "feature":
            own = Node.feature_node(node.layer, node.position, node.feature)
        elif node.kind == "token":
            own = Node.token_node(node.position, node.token)
        elif node.kind == "target":
            target = graph.targets[node.target]
            own = Node.logit_node(
                node.position,
                node.token,
                target.label,
                graph.layers,
                target_logit=node.target == 0,
                token_prob=target.probability,
            )
        else:
            continue
        found = nodes[own.node_id]
        if node.kind == "feature":
            found.clerp = ""
        found.influence = found.activation = None
        assert found == own


def test_its_file_is_read_unless_an_error_has_a_feature_s_id(tmp_path: Path) -> None:
    nodes = [
        Node.token_node(0, 5, influence=0.9),
        Node.feature_node(0, 0, 3, influence=0.2, activation=1.5),
        Node.logit_node(0, 7, " a", 4, token_prob=0.5),
    ]
    links = [{"source": "E_5_0", "target": "0_3_0", "weight": 0.25}]
    model = Model(
        metadata=Metadata(
            slug="a", scan="o/r", transcoder_list=[], prompt_tokens=["x"], prompt="x"
        ),
        qParams=QParams(
            pinnedIds=["0_3_0"], supernodes=[], linkType="both", clickedId="", sg_pos=""
        ),
        nodes=nodes,
        links=links,
    )
    path = tmp_path / "graph.json"
    path.write_text(model.model_dump_json())
    read = read_json(path)
    assert (list(read.nodes), read.pinned) == (["E_5_0", "0_3_0", "5_7_0"], ("0_3_0",))
    model.nodes.append(Node.error_node(3, 0))
    path.write_text(model.model_dump_json())
    with pytest.raises(InputError, match="0_3_0 is there twice"):
        read_json(path)


def test_its_list_of_graphs_takes_ours(tmp_path: Path) -> None:
    graph, pruned = random_graph()
    write_viewer_folder(tmp_path, graph, pruned, slug="ours", scan="o/r")
    add_graph_metadata({"slug": "theirs"}, str(tmp_path))
    write_viewer_folder(tmp_path, graph, pruned, slug="again", scan="o/r")
    graphs = json.loads((tmp_path / LIST).read_text())["graphs"]
    assert [one["slug"] for one in graphs] == ["ours", "theirs", "again"]
