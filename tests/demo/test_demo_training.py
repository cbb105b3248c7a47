"""Training of the demo's language model: it learns, and resumes bit for bit."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pie_jax.demo.initialisation import initialise
from pie_jax.demo.make import MODEL, _claim
from pie_jax.demo.model_training import TrainingSettings, next_token_loss, train
from pie_jax.errors import InputError
from pie_jax.models.transformer import Transformer

TINY = replace(MODEL, vocab_size=32, num_layers=2, d_model=16, d_mlp=24, head_dim=4)
SETTINGS = TrainingSettings(steps=6, rows=2, window=8, warmup=2, checkpoint_every=3)


def batches(step: int) -> np.ndarray:
    return np.random.default_rng((5, step)).integers(0, 32, (2, 8), dtype=np.int32)


class KilledError(Exception):
    pass


def test_a_killed_run_ends_in_the_same_parameters(tmp_path):
    def dying(step: int) -> np.ndarray:
        if step == 4:
            raise KilledError
        return batches(step)

    straight = train(TINY, SETTINGS, batches, tmp_path / "straight")
    with pytest.raises(KilledError):
        train(TINY, SETTINGS, dying, tmp_path / "killed")
    seen: list[int] = []

    def watched(step: int) -> np.ndarray:
        seen.append(step)
        return batches(step)

    resumed = train(TINY, SETTINGS, watched, tmp_path / "killed")
    assert seen == [3, 4, 5]
    for a, b in zip(jax.tree.leaves(straight), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    again = train(TINY, SETTINGS, watched, tmp_path / "killed")
    assert seen == [3, 4, 5], "a finished run trains no further"
    np.testing.assert_array_equal(again.embedding[...], straight.embedding[...])


def test_training_learns_what_repeats(tmp_path):
    tokens = np.tile(np.arange(8, dtype=np.int32), (2, 1))
    before = next_token_loss(Transformer(TINY, nnx.Rngs(0)), jnp.asarray(tokens))
    settings = replace(SETTINGS, steps=60, learning_rate=1e-2, checkpoint_every=60)
    lines: list[int] = []

    def report(step: int, transformer: Transformer) -> str:
        lines.append(step)
        return ""

    model = train(TINY, settings, lambda step: tokens, tmp_path, report)
    assert float(before) > 3.0
    assert float(next_token_loss(model, jnp.asarray(tokens))) < 0.5
    assert lines == [60]


def test_loss_is_the_mean_over_all_tokens_but_the_first():
    model = Transformer(TINY, nnx.Rngs(1))
    tokens = jnp.asarray(batches(0))
    expected = []
    for row in tokens:
        logits = np.asarray(model(row).logits, np.float64)
        for position in range(7):
            scores = logits[position]
            expected.append(np.log(np.exp(scores).sum()) - scores[int(row[position + 1])])
    np.testing.assert_allclose(next_token_loss(model, tokens), np.mean(expected), rtol=1e-5)


def test_a_work_folder_of_another_run_is_refused(tmp_path):
    _claim(tmp_path, {"seed": 0})
    _claim(tmp_path, {"seed": 0})
    with pytest.raises(InputError, match="another --work"):
        _claim(tmp_path, {"seed": 1})


def test_initial_weights_follow_their_fan_in():
    model = initialise(MODEL, 0)
    attention, mlp = model.blocks.attention, model.blocks.mlp
    for weight, expected in [
        (model.embedding, 0.3),
        (attention.query, 128**-0.5),
        (attention.output, 0.3 * (128 * 12) ** -0.5),
        (mlp.down, 0.3 * (384 * 12) ** -0.5),
    ]:
        np.testing.assert_allclose(np.std(weight[...]), expected, rtol=0.03)
    np.testing.assert_array_equal(model.blocks.mlp_norm.weight[...], np.ones((6, 128)))
    other = initialise(MODEL, 1)
    assert not np.array_equal(other.embedding[...], model.embedding[...])
