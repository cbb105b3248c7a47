"""Generation with a cache equals generation without; steering holds the feature where it should."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from prune_helpers import ARITHMETIC, tiny_model, tiny_transcoder

from pie_jax.evaluate.steering import Steerer, steering_of
from pie_jax.features.records import FeatureKey
from pie_jax.models.generate import generate
from pie_jax.transcoders.config import TopK

NEW = 6
LENGTH = 16
PROMPTS = [[1, 5, 9, 13], [1, 7, 30, 31, 32, 8, 4]]


def batch() -> tuple[jnp.ndarray, jnp.ndarray]:
    tokens = np.zeros((2, 8), np.int32)
    for row, prompt in enumerate(PROMPTS):
        tokens[row, : len(prompt)] = prompt
    return jnp.asarray(tokens), jnp.asarray([len(p) for p in PROMPTS], jnp.int32)


def slow_generate(model, prompt, transcoder=None, key=None, target=0.0) -> list[int]:
    """Run the whole prompt again for every token; the feature's write comes in as `mlp_delta`.

    What follows a position changes nothing before it: padding to one length compiles once.
    """
    tokens = list(prompt)
    for _ in range(NEW):
        ids, delta = jnp.asarray(tokens + [0] * (LENGTH - len(tokens))), None
        if transcoder is not None:
            inputs = model.streams(ids).resid_mid
            inputs = model.transcoder_inputs(inputs, transcoder.config.input_site)
            # Writes start at the feature's own layer, after it has read: one pass is enough.
            activation = transcoder.encoder(key.layer)(inputs[key.layer])[:, key.feature]
            change = np.array(target - activation)
            change[0] = 0
            delta = np.zeros(inputs.shape, np.float32)
            for w, row in enumerate(transcoder.rows(key.layer, np.array([key.feature]))[0]):
                delta[key.layer + w] = change[:, None] * row
            delta = jnp.asarray(delta)
        tokens.append(int(jnp.argmax(model(ids, delta).logits[len(tokens) - 1])))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("kind", ARITHMETIC)
def test_greedy_generation_with_a_cache_equals_without(tmp_path, kind):
    model = tiny_model(tmp_path, **ARITHMETIC[kind]).transformer
    tokens, length = batch()
    found = np.asarray(generate(model, tokens, length, new_tokens=NEW))
    assert found.tolist() == [slow_generate(model, prompt) for prompt in PROMPTS]


@pytest.mark.parametrize("site", ["resid_mid", "mlp_in", "ln2_normalized", "topk"])
@pytest.mark.parametrize("target", [0.0, 4.0, -4.0])
def test_steering_equals_writing_the_change_into_the_mlp_outputs(tmp_path, site, target):
    model = tiny_model(tmp_path)
    if site == "topk":
        site, transcoder = "resid_mid", tiny_transcoder(model, bias=0.5, top=TopK(6, relu=False))
    else:
        transcoder = tiny_transcoder(model, bias=0.5, jump=True, input_site=site)
    key = FeatureKey(1, 7)
    tokens, length = batch()
    steering = steering_of(transcoder, key, target)
    found = generate(model.transformer, tokens, length, steering, new_tokens=NEW, site=site)
    slow = [slow_generate(model.transformer, p, transcoder, key, target) for p in PROMPTS]
    assert np.asarray(found).tolist() == slow


def test_steering_changes_the_text_and_a_silent_feature_held_at_zero_does_not(tmp_path):
    model = tiny_model(tmp_path)
    transcoder = tiny_transcoder(model, bias=-100.0)
    tokens, length = batch()
    plain = np.asarray(generate(model.transformer, tokens, length, new_tokens=NEW))

    def steered(target: float) -> np.ndarray:
        steering = steering_of(transcoder, FeatureKey(0, 3), target)
        return np.asarray(generate(model.transformer, tokens, length, steering, new_tokens=NEW))

    assert (steered(0.0) == plain).all()
    assert (steered(50.0) != plain).any()


def test_continuations_come_in_the_order_of_the_prompts_and_stop_at_special_tokens(tmp_path):
    model = tiny_model(tmp_path)
    transcoder = tiny_transcoder(model, bias=-100.0)
    prompts = ["w5 w9 w13", "w7 w30 w31 w32 w8 w4", "w9"]

    def texts(size: int, some: list[str]) -> list[str]:
        steerer = Steerer(model, transcoder, batch_size=size)
        found = steerer.continuations(FeatureKey(0, 0), 3.0, some, NEW, 16)
        assert all("w0" not in text.tokens for text in found)
        return [text.text for text in found]

    assert texts(2, prompts) == texts(64, prompts)
    assert texts(2, prompts)[::-1] == texts(2, prompts[::-1])
