"""Graphs are circuit-tracer's, live: the same features, adjacency, influence, masks and scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra `parity`: pip install 'pie-jax[parity]'")
pytest.importorskip("circuit_tracer", reason="needs the extra `parity`")

import torch
from circuit_tracer.attribution.targets import CustomTarget
from circuit_tracer.graph import compute_graph_scores
from circuit_tracer.graph import prune_graph as their_prune
from circuit_tracer.transcoder.single_layer_transcoder import load_transcoder_set
from conftest import Reference
from safetensors.numpy import load_file, save_file
from their_graphs import PROMPTS, Both, TheirGemma, across_layers, made_weights  # noqa: F401, fixtures

import pie_jax
from benchmarks.parts.random_weights import SHAPES
from benchmarks.peers.circuit_tracer import CircuitTracer
from pie_jax.graph.attribute import attribute
from pie_jax.graph.prune import prune_graph, scores
from pie_jax.graph.types import Graph

# What they hook has no input that needs gradients where nothing is before it.
pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning"),
]
CLOSE = {"atol": 5e-4, "rtol": 1e-5}


@pytest.fixture(scope="module", params=[False, True], ids=["set", "set with skip"])
def by_layer(request, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Both:
    """A per-layer set that reads the MLPs' inputs, and with a skip where asked."""
    out, shape = tmp_path_factory.mktemp("set"), SHAPES["tiny"]
    rng = np.random.default_rng(0)
    for layer in range(shape.layers):
        found = load_file(folder / "transcoder" / f"W_enc_{layer}.safetensors")
        decoder = load_file(folder / "transcoder" / f"W_dec_{layer}.safetensors")
        tensors = {
            "W_enc": found[f"W_enc_{layer}"],
            "b_enc": np.full(shape.features, -1.0, np.float32),
            "W_dec": np.ascontiguousarray(decoder[f"W_dec_{layer}"][:, 0]),
            "b_dec": 0.1 * rng.standard_normal(shape.d_model).astype(np.float32),
        }
        if request.param:
            square = (shape.d_model, shape.d_model)
            tensors["W_skip"] = 0.02 * rng.standard_normal(square).astype(np.float32)
        save_file(tensors, out / f"layer_{layer}.safetensors")
    (out / "config.yaml").write_text(
        "model_name: made\nmodel_kind: transcoder_set\nfeature_input_hook: mlp.hook_in\n"
        "feature_output_hook: hook_mlp_out\n"
    )
    theirs = load_transcoder_set(
        {layer: str(out / f"layer_{layer}.safetensors") for layer in range(shape.layers)},
        scan="made",
        feature_input_hook="mlp.hook_in",
        feature_output_hook="hook_mlp_out",
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    model = pie_jax.load_model(folder / "model")
    return model, pie_jax.load_transcoder(out), CircuitTracer(folder, theirs)


def compare(ours: Graph, theirs: Any) -> None:
    """Compare graphs, what is left of them and their scores."""
    selected = theirs.active_features[theirs.selected_features].numpy()
    places = np.stack([ours.layer, ours.position, ours.feature], axis=1)
    np.testing.assert_array_equal(places, selected)
    activation = theirs.activation_values[theirs.selected_features].numpy()
    np.testing.assert_allclose(ours.activation, activation, **CLOSE)
    count, features = ours.node_count, ours.feature_count
    matrix = theirs.adjacency_matrix.numpy()
    assert matrix.shape == (count, count)
    own = np.r_[:features, count - len(ours.targets) : count]
    np.testing.assert_allclose(ours.rows, matrix[own], **CLOSE)
    assert not np.delete(matrix, own, axis=0).any()
    weights = [target.probability for target in ours.targets]
    np.testing.assert_allclose(weights, theirs.logit_probabilities.numpy(), rtol=1e-5)
    np.testing.assert_allclose(scores(ours), compute_graph_scores(theirs), rtol=0, atol=1e-5)
    for shares in ((0.8, 0.98), (0.6, 0.85)):
        pruned, their = prune_graph(ours, *shares), their_prune(theirs, *shares)
        np.testing.assert_allclose(pruned.influence, their.cumulative_scores, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(pruned.nodes, their.node_mask)
        np.testing.assert_array_equal(pruned.edges, their.edge_mask.numpy()[own])


@pytest.mark.parametrize("prompt", PROMPTS, ids=range(len(PROMPTS)))
def test_graphs_across_layers(prompt: str, across: Both):
    model, transcoder, tracer = across
    ids = model.tokenizer.encode(prompt)
    for features in (200, None):
        ours = attribute(model, transcoder, prompt, features=features)
        compare(ours, tracer.graph(ids, features))


def test_the_best_features_are_found_again_and_again(across: Both):
    model, transcoder, tracer = across
    ids = model.tokenizer.encode(PROMPTS[0])
    ours = attribute(model, transcoder, ids, features=150, update=40)
    compare(ours, tracer.graph(ids, 150, batch_size=20, update_interval=2))


def test_graphs_of_a_set(by_layer: Both):
    model, transcoder, tracer = by_layer
    ids = model.tokenizer.encode(PROMPTS[0])
    ours = attribute(model, transcoder, ids, features=150)
    compare(ours, tracer.graph(ids, 150))


def test_targets(across: Both):
    model, transcoder, tracer = across
    ids = model.tokenizer.encode(PROMPTS[1])
    vector = np.random.default_rng(0).standard_normal(model.config.d_model).astype(np.float32)
    ours = attribute(model, transcoder, ids, targets=[("a", 0.5, vector)], features=50)
    target = CustomTarget("a", 0.5, torch.from_numpy(vector))
    compare(ours, tracer.graph(ids, 50, attribution_targets=[target]))
    ours = attribute(model, transcoder, ids, targets=[7, 9], features=50)
    compare(ours, tracer.graph(ids, 50, attribution_targets=torch.tensor([7, 9])))


def test_graphs_of_gemma_2(reference: Callable[[str], Reference]):
    """Softcaps, sliding windows, norms before and after, and scaled embeddings."""
    found = reference("gemma2")
    theirs = TheirGemma(found.folder / "model", found.folder / "clt")
    for prompt, features in zip(found.prompts[:2], (100, None), strict=True):
        ids = found.model.tokenizer.encode(prompt["text_clean"])
        with torch.no_grad():
            logits = theirs.model(torch.tensor(ids))[0, -1].softmax(-1).numpy()
        ours = attribute(found.model, found.transcoder, ids, features=features)
        top = [logits[target.token] for target in ours.targets]
        np.testing.assert_allclose([one.probability for one in ours.targets], top, rtol=1e-5)
        assert ours.feature_count > 50
        compare(ours, theirs.graph(ids, features))
