"""Integrated gradients: FAP at the clean point, completeness, and KL's missing gradient there."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from prune_helpers import prepare, tiny_model, tiny_pairs, tiny_transcoder

from pie_jax.models.gradient_rules import FROZEN, FULL
from pie_jax.prune.methods import METHODS
from pie_jax.prune.methods.integrated_gradients import path_points, scores_at
from pie_jax.prune.options import IntegratedOptions, PruneOptions


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory):
    model = tiny_model(tmp_path_factory.mktemp("tiny"))
    return prepare(
        model, tiny_transcoder(model, bias=0.0), tiny_pairs([12, 10], seed=4), PruneOptions()
    )


def at(inputs, shares, objective="logit-diff", rule=FULL) -> np.ndarray:
    shares = jnp.asarray(shares, jnp.float32)
    return np.asarray(scores_at(inputs.problem, inputs.total, shares, objective, rule))


def test_points_are_the_middles_of_equal_parts():
    np.testing.assert_allclose(path_points(4), [0.125, 0.375, 0.625, 0.875])


def test_frozen_gradients_at_the_clean_point_are_fap(inputs):
    np.testing.assert_allclose(
        at(inputs, [1.0], rule=FROZEN), METHODS["fap"].scores(inputs), atol=1e-5
    )
    np.testing.assert_allclose(at(inputs, [1.0]), METHODS["fap-full"].scores(inputs), atol=1e-5)


@pytest.mark.parametrize("objective", ["metric", "kl"])
def test_scores_add_up_to_the_change_of_the_objective(inputs, objective: str):
    options = replace(inputs.options, integrated=IntegratedOptions(64, objective))
    before, inputs.options = inputs.options, options
    try:
        total = METHODS["integrated-gradients"].scores(inputs).sum(axis=1)
    finally:
        inputs.options = before
    clean, null = inputs.ends
    change = clean - null.metric if objective == "metric" else null.kl_last
    np.testing.assert_allclose(total, change, rtol=0.01)


def test_kl_has_no_gradient_at_the_clean_point_which_no_path_touches(inputs):
    assert np.abs(at(inputs, [1.0], "kl")).max() < 1e-5
    assert max(path_points(1000)) < 1.0
