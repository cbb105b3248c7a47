"""Logits, streams, gradients and reconstructions equal the published PyTorch code's."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pie_jax.models.gradient_rules import GRADIENT_RULES
from pie_jax.models.loader import LanguageModel
from pie_jax.models.transformer import Outputs
from pie_jax.transcoders.loader import load_transcoder

PROMPTS = range(8)
# float32 on both sides, compared with the largest value; logits reach about 34, streams 24.
STATE_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-3
RULES = {"grad": "frozen", "relp": "relp"}


@pytest.fixture(scope="module", params=["llama", "gemma2"])
def family(request: pytest.FixtureRequest, reference: Callable) -> Any:
    return reference(request.param)


def worst(ours: Any, theirs: np.ndarray) -> float:
    """Return the largest difference in units of the largest value."""
    assert ours.shape == theirs.shape
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


def padded(family: Any, key: str = "tokens") -> tuple[jax.Array, jax.Array]:
    """Return all prompts as one batch, [P, T], and their lengths; padding is on the right."""
    prompts = [family[f"{prompt}/{key}"] for prompt in PROMPTS]
    longest = max(map(len, prompts))
    batch = np.stack([np.pad(prompt, (0, longest - len(prompt))) for prompt in prompts])
    return jnp.asarray(batch), jnp.asarray([len(prompt) for prompt in prompts])


@cache
def forward(family: Any, key: str = "tokens") -> Outputs:
    """Run all prompts."""
    tokens, _ = padded(family, key)
    return jax.jit(jax.vmap(family.model.transformer))(tokens)


def logit_diff(logits: jax.Array, length: jax.Array, answers: jax.Array) -> jax.Array:
    last = logits[length - 1]
    return last[answers[0]] - last[answers[1]]


def logsumexp(logits: jax.Array, length: jax.Array, answers: jax.Array) -> jax.Array:
    real = jnp.arange(len(logits)) < length
    return jnp.where(real, jax.nn.logsumexp(logits, axis=-1), 0).sum()


METRICS = {"logit_diff": logit_diff, "logsumexp": logsumexp}


@cache
def gradients(family: Any, metric: str, rule: str) -> jax.Array:
    """Differentiate a metric by what is added to the MLP outputs, [P, L, T, D]."""
    model, config = family.model.transformer, family.model.config
    tokens, lengths = padded(family)
    encode = family.model.tokenizer.encode
    answers = [
        [encode(" " + row[k])[-1] for k in ("io_clean", "s_clean")] for row in family.prompts
    ]

    def gradient(tokens: jax.Array, length: jax.Array, answers: jax.Array) -> jax.Array:
        def value(delta: jax.Array) -> jax.Array:
            logits = model(tokens, delta, GRADIENT_RULES[rule]).logits
            return METRICS[metric](logits, length, answers)

        return jax.grad(value)(jnp.zeros((config.num_layers, len(tokens), config.d_model)))

    return jax.jit(jax.vmap(gradient))(tokens, lengths, jnp.asarray(answers))


@pytest.mark.parametrize("prompt", PROMPTS)
def test_tokens(family: Any, prompt: int):
    tokenizer, row = family.model.tokenizer, family.prompts[prompt]
    assert tokenizer.encode(row["text_clean"]) == family[f"{prompt}/tokens"].tolist()
    assert tokenizer.encode(row["text_corr"]) == family[f"{prompt}/tokens_corr"].tolist()


@pytest.mark.parametrize("prompt", PROMPTS)
def test_logits_and_streams(family: Any, prompt: int):
    out, length = forward(family), len(family[f"{prompt}/tokens"])
    logits, resid_mid = out.logits[prompt, :length], out.resid_mid[prompt, :, :length]
    assert worst(logits, family[f"{prompt}/logits"]) <= STATE_TOLERANCE
    assert worst(resid_mid, family[f"{prompt}/resid_mid"]) <= STATE_TOLERANCE


@pytest.mark.parametrize("kind", RULES)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("prompt", PROMPTS)
def test_gradients(family: Any, prompt: int, metric: str, kind: str):
    theirs = family[f"{prompt}/{kind}/{metric}"]
    ours = gradients(family, metric, RULES[kind])[prompt]
    assert worst(ours[:, : theirs.shape[1]], theirs) <= GRADIENT_TOLERANCE
    assert not np.asarray(ours[:, theirs.shape[1] :]).any()


@pytest.mark.parametrize("metric", METRICS)
def test_gradient_rules_are_not_all_the_same(family: Any, metric: str):
    theirs = family[f"0/grad/{metric}"]
    for rule in ("full", "relp"):
        ours = gradients(family, metric, rule)[0]
        assert worst(ours[:, : theirs.shape[1]], theirs) > 0.1


@pytest.mark.parametrize("run", ["clean", "corr"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_activations(family: Any, prompt: int, run: str):
    key = "tokens" if run == "clean" else "tokens_corr"
    length = len(family[f"{prompt}/{key}"])
    resid_mid = forward(family, key).resid_mid[prompt, :, :length]
    module = family.transcoder.module()
    ours = np.array(module.encode(resid_mid))
    ours[:, 0] = 0
    indices = family[f"{prompt}/act_{run}_idx"]
    theirs = np.zeros_like(ours)
    theirs[tuple(indices.T)] = family[f"{prompt}/act_{run}_val"]
    assert (theirs != 0).sum() == len(indices)
    same = (ours != 0) == (theirs != 0)
    assert worst(ours[same], theirs[same]) <= STATE_TOLERANCE
    # Rounding may only decide about a feature that is within it of its threshold.
    for layer, position, feature in np.argwhere(~same).tolist():
        encoder = module.encoders[layer]
        above = encoder.preactivations(resid_mid[layer])[position, feature]
        if encoder.threshold is not None:
            above -= encoder.threshold[...][feature]
        assert abs(above) <= STATE_TOLERANCE * theirs.max()
    assert (~same).sum() <= 1


@pytest.mark.parametrize("prompt", PROMPTS)
def test_reconstruction(family: Any, prompt: int):
    resid_mid = jnp.asarray(family[f"{prompt}/resid_mid"])
    ours = family.transcoder.module().reconstruct(resid_mid)
    assert worst(ours, family[f"{prompt}/reconstruction"]) <= STATE_TOLERANCE


def test_reading_encoders_from_disk_changes_nothing(family: Any):
    lazy = load_transcoder(family.folder / "clt", encoders_on_disk=True)
    assert not lazy.resident
    x = jnp.asarray(family["0/resid_mid"])
    for layer in range(lazy.config.num_layers):
        np.testing.assert_array_equal(
            lazy.encoder(layer)(x[layer]), family.transcoder.encoder(layer)(x[layer])
        )


def test_rows_are_the_decoder(family: Any):
    features = np.array([0, 5, 5, 191])
    for layer, decoder in enumerate(family.transcoder.module().decoders):
        rows = family.transcoder.rows(layer, features)
        assert rows.shape[1] == family.transcoder.config.targets(layer)
        np.testing.assert_array_equal(rows, decoder[...][features])


def test_model_files_decide_what_it_computes(family: Any):
    model: LanguageModel = family.model
    names = {path.name for path in model.files()}
    assert names == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
