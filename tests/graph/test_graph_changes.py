"""A graph of changes: what moves between two prompts, through the frozen model of the first."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from graph_helpers import FrozenRun, tiny

from pie_jax.errors import InputError
from pie_jax.graph.attribute import attribute
from pie_jax.graph.prune import prune_graph
from pie_jax.graph.run.validate import validate

CLEAN = "w5 w9 w30 w12 w7 w21 w33"
CORRUPTED = "w5 w9 w30 w8 w7 w22 w33"
CLOSE = {"atol": 5e-4, "rtol": 1e-5}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory):
    return tiny(tmp_path_factory.mktemp("llama"), "llama")


def test_edges_add_up_to_the_change_that_the_frozen_model_predicts(llama):
    model, transcoder = llama
    graph = attribute(model, transcoder, CLEAN, corrupted=CORRUPTED, targets=("w4", "w8"))
    run = FrozenRun(model, transcoder, graph.token_ids)
    other = model.transformer.streams(jnp.asarray(model.tokenizer.encode(CORRUPTED)))
    embedded = np.asarray(model.transformer.embed(jnp.asarray(model.tokenizer.encode(CORRUPTED))))
    # BOS is the same in both, and nothing of it changes.
    inputs, end = run.run(run.embedded - embedded, run.mlp_out - np.asarray(other.mlp_out))
    inputs, end = inputs - run.clean_inputs, end - run.clean_end
    expected = [
        transcoder.encoder_arrays[layer].weight[feature] @ inputs[layer, position]
        for layer, position, feature in zip(graph.layer, graph.position, graph.feature, strict=True)
    ]
    unembedding = np.asarray(model.transformer.unembedding_rows())
    expected.append((unembedding[4] - unembedding[8]) @ end[-1])
    np.testing.assert_allclose(graph.rows.sum(axis=1), expected, **CLOSE)
    assert np.abs(expected).max() > 0.1


def test_activations_are_differences_and_what_is_equal_does_nothing(llama):
    model, transcoder = llama
    graph = attribute(model, transcoder, CLEAN, corrupted=CORRUPTED, max_logits=2)
    both = [attribute(model, transcoder, text, max_logits=2) for text in (CLEAN, CORRUPTED)]
    active = [
        dict(
            zip(zip(one.layer, one.position, one.feature, strict=True), one.activation, strict=True)
        )
        for one in both
    ]
    places = list(zip(graph.layer, graph.position, graph.feature, strict=True))
    assert set(places) == set(active[0]) | set(active[1])
    expected = [active[0].get(place, 0) - active[1].get(place, 0) for place in places]
    np.testing.assert_allclose(graph.activation, expected, atol=1e-5)
    found = [active[1].get(place, 0) for place in places]
    np.testing.assert_allclose(graph.corrupted.activation, found, atol=1e-5)
    assert graph.corrupted.tokens[6] == " w22"
    # The prompts differ from token 4 on.
    before = graph.position < 4
    assert before.any()
    assert not graph.rows[:, : graph.feature_count][:, before].any()
    tokens = graph.rows[:, -2 - len(graph.tokens) : -2]
    assert (np.abs(tokens).max(axis=0) > 0).tolist() == [i in (4, 6) for i in range(8)]


def test_setting_a_feature_to_its_corrupted_activation_undoes_its_edge(llama):
    model, transcoder = llama
    graph = attribute(model, transcoder, CLEAN, corrupted=CORRUPTED, targets=("w4", "w8"))
    found = validate(model, transcoder, graph, prune_graph(graph, 0.95, 1.0), 20)
    np.testing.assert_allclose(found.changes["direct"], found.predicted, atol=1e-4)
    # Not only those that are active in the clean prompt.
    assert (graph.corrupted.activation[found.node] != 0).any()


def test_prompts_have_to_line_up(llama):
    with pytest.raises(InputError, match="corrupted: 3 tokens with BOS, and the prompt has 8"):
        attribute(*llama, CLEAN, corrupted="w5 w9")


def test_features_are_found_wherever_they_are_active(llama):
    model, transcoder = llama
    whole = attribute(model, transcoder, CLEAN, max_logits=2)
    keys = [(int(whole.layer[3]), int(whole.feature[3])), (0, int(whole.feature[0]))]
    some = attribute(model, transcoder, CLEAN, max_logits=2, features=keys)
    expected = [
        place
        for place in zip(whole.layer, whole.position, whole.feature, strict=True)
        if (place[0], place[2]) in keys
    ]
    assert list(zip(some.layer, some.position, some.feature, strict=True)) == expected
