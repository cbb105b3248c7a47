"""Rows of a graph are what changes in a frozen run where a node is doubled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from graph_helpers import FrozenRun, doubled, tiny

import pie_jax
from pie_jax.errors import InputError
from pie_jax.graph import frozen
from pie_jax.graph.attribute import attribute
from pie_jax.graph.targets import Direction
from pie_jax.graph.types import Target
from pie_jax.models.gradient_rules import FROZEN
from pie_jax.transcoders.config import TopK

PROMPT = "w5 w9 w30 w12 w7 w21 w33"
# As circuit-tracer's own tests of the same.
CLOSE = {"atol": 5e-4, "rtol": 1e-5}
CASES = {
    "llama": ("llama", {}),
    "gemma, skip": ("gemma", {"skip": True, "input_site": "mlp_in"}),
    "llama, set, skip": ("llama", {"skip": True, "cross_layer": False, "input_site": "mlp_in"}),
    "gemma, set": (
        "gemma",
        {"cross_layer": False, "input_site": "ln2_normalized", "bias": 0.5, "jump": True},
    ),
    "llama, TopK": ("llama", {"top": TopK(2, False), "skip": True}),
}


def logit_rows(model, ids):
    unembedding = np.asarray(model.transformer.unembedding_rows())
    return unembedding[ids] - unembedding.mean(axis=0)


@pytest.mark.parametrize("case", CASES)
def test_rows_are_what_doubling_changes(case: str, tmp_path: Path):
    family, options = CASES[case]
    model, transcoder = tiny(tmp_path, family, **options)
    graph = attribute(model, transcoder, PROMPT, max_logits=3)
    run = FrozenRun(model, transcoder, graph.token_ids)
    module = transcoder.module()
    inputs = jnp.asarray(run.clean_inputs, jnp.float32)
    errors = run.mlp_out - np.asarray(module.reconstruct(inputs))
    errors[:, 0] = 0
    active = np.argwhere(np.asarray(module.encode(inputs)) != 0)
    active = active[active[:, 1] > 0]
    found = np.stack([graph.layer, graph.position, graph.feature], axis=1)
    np.testing.assert_array_equal(found, active)
    assert len(active) > 20
    vectors = logit_rows(model, [target.token for target in graph.targets])
    assert graph.rows.shape == (len(active) + len(vectors), graph.node_count)
    expected = doubled(run, graph, vectors, errors)
    np.testing.assert_allclose(graph.rows, expected, **CLOSE)
    assert np.abs(expected).max() > 0.1


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory):
    return tiny(tmp_path_factory.mktemp("llama"), "llama")


def test_a_row_is_one_gradient_of_the_frozen_model(llama):
    """One vjp of the whole model for each row, and each decoder row by itself."""
    model, transcoder = llama
    graph = attribute(model, transcoder, PROMPT, max_logits=2, batch=3)
    tokens, shape = jnp.asarray(graph.token_ids), (3, len(graph.tokens), 16)
    _, pull = jax.vjp(
        jax.jit(lambda delta: model.transformer.streams(tokens, delta, FROZEN).resid_mid),
        jnp.zeros(shape),
    )
    for row in range(0, graph.feature_count, 7):
        layer, position = graph.layer[row], graph.position[row]
        vector = transcoder.encoder_arrays[layer].weight[graph.feature[row]]
        cotangent = jnp.zeros(shape).at[layer, position].set(vector)
        gradient = np.asarray(pull(cotangent)[0], np.float64)
        for column in range(graph.feature_count):
            first = graph.layer[column]
            rows = transcoder.decoder_maps[first][graph.feature[column]]
            read = gradient[first : first + len(rows), graph.position[column]]
            expected = graph.activation[column] * np.sum(rows * read)
            assert graph.rows[row, column] == pytest.approx(expected, abs=1e-4)


def test_targets(llama):
    model, transcoder = llama
    few = {"features": 5}
    likely = attribute(model, transcoder, PROMPT, max_logits=40, probability=0.9, **few)
    held = np.array([target.probability for target in likely.targets])
    assert held.sum() >= 0.9 > held[:-1].sum()
    assert (np.diff(held) <= 0).all()
    nodes = places(likely)
    chosen = attribute(model, transcoder, PROMPT, targets=["w4", 8], features=nodes)
    assert [(one.label, one.token) for one in chosen.targets] == [(" w4", 4), (" w8", 8)]
    pair = attribute(model, transcoder, PROMPT, targets=("w4", "w8"), features=nodes)
    assert pair.targets == (Target("w4 − w8", None, 1.0, (4, 8)),)
    np.testing.assert_allclose(
        pair.rows[-1, :-1], chosen.rows[-2, :-2] - chosen.rows[-1, :-2], atol=1e-5
    )
    vectors = logit_rows(model, [4, 8])
    given = [Direction("one", 0.5, vectors[0] - vectors[1])]
    same = attribute(model, transcoder, PROMPT, targets=given, features=nodes)
    np.testing.assert_allclose(same.rows, pair.rows, atol=1e-5)
    assert same.targets == (Target("one", None, 0.5),)


def places(graph):
    return list(zip(graph.layer, graph.position, graph.feature, strict=True))


@pytest.mark.parametrize("update", [1, 7, 2048])
def test_the_best_features_are_found_by_influence(update: int, llama):
    """As the definition says, from the rows of a graph with all features."""
    model, transcoder = llama
    whole = attribute(model, transcoder, PROMPT, max_logits=3)
    count, wanted = whole.feature_count, 20
    weights = np.array([target.probability for target in whole.targets])
    shares = np.abs(whole.rows[:, :-3].astype(np.float64))
    shares /= np.maximum(shares.sum(1, keepdims=True), 1e-8)
    visited: list[int] = []
    while len(visited) < wanted:
        arriving, held = weights @ shares[count:], 0.0
        while arriving.any():
            held = held + arriving
            known = np.zeros(count)
            known[visited] = arriving[visited]
            arriving = known @ shares[:count]
        order = [i for i in np.argsort(-held[:count], kind="stable") if i not in visited]
        visited += order[: min(update, wanted - len(visited))]
    graph = attribute(model, transcoder, PROMPT, max_logits=3, features=wanted, update=update)
    best = np.sort(visited)
    for name in ("layer", "position", "feature", "activation"):
        np.testing.assert_array_equal(getattr(graph, name), getattr(whole, name)[best])
    rest = np.arange(count, whole.node_count)
    rows = np.concatenate([best, np.arange(count, count + 3)])
    expected = whole.rows[np.ix_(rows, np.concatenate([best, rest]))]
    np.testing.assert_allclose(graph.rows, expected, atol=1e-5)


def test_a_second_prompt_compiles_nothing(llama):
    model, transcoder = llama
    attribute(model, transcoder, PROMPT, features=20)
    before = [one.count() for one in (frozen.points, frozen.effects, frozen.errors)]
    other = attribute(model, transcoder, "w3 w8 w15 w6 w4 w22", features=20)
    assert other.feature_count == 20
    assert [one.count() for one in (frozen.points, frozen.effects, frozen.errors)] == before


def test_sources_are_multiplied_in_groups(llama, monkeypatch: pytest.MonkeyPatch):
    model, transcoder = llama
    whole = attribute(model, transcoder, PROMPT)
    monkeypatch.setattr("pie_jax.graph.sources._ROW_BYTES", {"cpu": 1 << 11})
    # Positions without features are in other groups than those with many.
    parts = attribute(model, transcoder, PROMPT)
    np.testing.assert_allclose(parts.rows, whole.rows, atol=1e-5)


def test_numbers_of_features(llama):
    model, transcoder = llama
    every = attribute(model, transcoder, PROMPT)
    assert (
        pie_jax.attribution_graph(model, transcoder, PROMPT, features=np.int64(5)).layer.size == 5
    )
    given = np.stack([every.layer, every.position, every.feature], axis=1)[[9, 2, 9]]
    named = attribute(model, transcoder, PROMPT, features=given)
    assert places(named) == [tuple(given[1]), tuple(given[0])]
    more = attribute(model, transcoder, PROMPT, features=10**6)
    np.testing.assert_array_equal(more.rows, every.rows)


def test_a_mesh_is_refused(llama):
    model, transcoder = llama
    mesh = pie_jax.make_mesh({"data": jax.device_count()})
    with pytest.raises(InputError, match="run on one device"):
        attribute(model, replace(transcoder, mesh=mesh), PROMPT)


def test_ids_are_taken_as_they_are(llama):
    model, transcoder = llama
    ids = model.tokenizer.encode(PROMPT)
    by_ids = attribute(model, transcoder, ids, features=5)
    by_text = attribute(model, transcoder, PROMPT, features=5)
    np.testing.assert_array_equal(by_ids.rows, by_text.rows)
    assert by_ids.tokens == tuple(model.tokenizer.token(index) for index in ids)


def test_a_graph_without_features(llama):
    model, transcoder = llama
    graph = attribute(model, transcoder, PROMPT, features=0, max_logits=2)
    length = len(graph.tokens)
    assert (graph.feature_count, graph.rows.shape) == (0, (2, 4 * length + 2))
    assert np.abs(graph.rows[:, 1:length]).min() > 0
    # BOS's errors are no nodes that do anything, but its token is.
    assert (graph.rows[:, 0 : 3 * length : length] == 0).all()
    assert (graph.rows[:, 3 * length] != 0).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": ""}, r"prompt: 1 token with BOS; a graph needs 2 to the model's 64"),
        ({"prompt": [1, 5.5]}, "prompt: token 5.5 is not one of the model's, 0 to 39"),
        ({"prompt": [1, 40]}, "prompt: token 40 is not one of the model's, 0 to 39"),
        ({"targets": []}, "targets: the list is empty"),
        ({"targets": ["w4 w5"]}, r"target 'w4 w5' is 2 tokens, \[' w4', ' w5'\]"),
        ({"targets": [77]}, "target 77: the model has tokens 0 to 39"),
        ({"targets": ("w4", "w4")}, "a pair holds a target and another token"),
        ({"targets": [("a", 1.0, np.zeros(3))]}, r"direction 'a' has the shape \(3,\)"),
        ({"targets": [("a", 1.0)]}, "is not a direction; give its label, weight and vector"),
        ({"probability": 0.0}, "a share above 0"),
        ({"features": -1}, "features -1: at least 0"),
        ({"features": [(0, 0, 1)]}, "feature 1 of layer 0 is not active at position 0"),
        ({"features": [(0, 3, 12)]}, "has no feature 12 in layer 0; it has 3 layers of 12"),
        ({"features": [(3, 5)]}, "has no feature 5 in layer 3"),
        ({"features": 3.7}, "features: 3.7 is not a whole number"),
        ({"features": [(0, 3, 1.5)]}, "features: 1.5 is not a whole number"),
        ({"features": [(0,)]}, r"features: each is \(layer, position, feature\) or"),
        ({"targets": [4.5]}, "targets: 4.5 is not a whole number"),
        ({"batch": 0}, "batch 0: at least 1"),
        ({"update": 0}, "update 0: at least 1"),
    ],
)
def test_errors(changes: dict, message: str, llama):
    model, transcoder = llama
    with pytest.raises(InputError, match=message):
        attribute(model, transcoder, **{"prompt": PROMPT, **changes})
