"""A per-layer `transcoder_set` folder through the whole stage: reads each input site, writes its
own layer only."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from prune_helpers import (
    Columns,
    SlowPrompt,
    columns,
    places,
    prepare,
    rows_where,
    tiny_model,
    tiny_pairs,
)
from safetensors.numpy import save_file
from search_helpers import Case as SearchCase

import pie_jax
from pie_jax.models.gradient_rules import FROZEN
from pie_jax.models.loader import LanguageModel
from pie_jax.prune.options import PruneOptions
from pie_jax.prune.search.space import search_space
from pie_jax.transcoders.store import Transcoder

FEATURES, WIDTH = 20, 16
LENGTHS = [16, 12]
PAIRS = tiny_pairs(LENGTHS)
OPTIONS = PruneOptions(methods=("fap", "factp", "random"), budgets=(6,), batch_size=2)
# Logits reach twenty in float32.
TOLERANCE = 1e-4
INPUTS = {
    "mlp_in": "mlp.hook_in",
    "ln2_normalized": "ln2.hook_normalized",
    "resid_mid": "hook_resid_mid",
}

SITES = [("mlp_in", True), ("ln2_normalized", True), ("resid_mid", False)]


@dataclass(eq=False)
class Case:
    model: LanguageModel
    transcoder: Transcoder
    tables: dict[str, Columns]


@pytest.fixture(scope="module", params=SITES, ids=str)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A folder with thresholds that reads the MLPs' inputs, and a ReLU one as CLTs read."""
    site, jump = request.param
    folder = tmp_path_factory.mktemp("set")
    rng = np.random.default_rng(0)
    model = tiny_model(folder / "model", gemma=jump)

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    for layer in range(model.config.num_layers):
        tensors = {
            "W_enc": 0.2 * draw(FEATURES, WIDTH),
            "b_enc": draw(FEATURES) - 0.5,
            "W_dec": 0.5 * draw(FEATURES, WIDTH),
            "b_dec": draw(WIDTH),
        }
        if jump:
            tensors["activation_function.threshold"] = 0.3 * np.abs(draw(FEATURES))
        save_file(tensors, folder / f"layer_{layer}.safetensors")
    config = {
        "model_name": "tiny",
        "model_kind": "transcoder_set",
        "feature_input_hook": INPUTS[site],
        "feature_output_hook": "hook_mlp_out",
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    transcoder = pie_jax.load_transcoder(folder)
    assert not transcoder.config.cross_layer
    assert transcoder.config.input_site == site
    result = pie_jax.prune(model, transcoder, PAIRS, OPTIONS)
    names = ("scores", "selections", "behaviour")
    return Case(model, transcoder, {name: columns(getattr(result, name)) for name in names})


def slow_activations(case: Case, text: str) -> np.ndarray:
    """Return the dense activations [L, T, F] of one prompt, BOS zeroed, in float64."""
    tokens = jnp.asarray(case.model.tokenizer.encode(text))
    model, config = case.model.transformer, case.model.config
    x = np.asarray(model.streams(tokens).resid_mid, np.float64)
    site = case.transcoder.config.input_site
    if site != "resid_mid":
        x = x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + config.norm_eps)
    if site == "mlp_in":
        weight = np.asarray(model.blocks.mlp_norm.weight[...], np.float64) + config.norm_offset
        x = x * weight[:, None]
    out = []
    for at_layer, arrays in zip(x, case.transcoder.encoder_arrays, strict=True):
        pre = at_layer @ arrays.weight.T.astype(np.float64) + arrays.bias
        threshold = 0.0 if arrays.threshold is None else arrays.threshold
        out.append(np.where(pre > threshold, pre, 0.0))
    found = np.stack(out)
    found[:, 0] = 0
    return found


@pytest.mark.parametrize("prompt", range(2))
def test_occurrences(case: Case, prompt: int):
    clean = slow_activations(case, PAIRS[prompt].clean)
    corrupted = slow_activations(case, PAIRS[prompt].corrupted[0])
    rows = rows_where(case.tables["scores"], prompt=prompt)
    at = np.nonzero((clean > 0) | (corrupted > 0))
    for name, index in zip(("layer", "position", "feature"), at, strict=True):
        np.testing.assert_array_equal(rows[name], index)
    np.testing.assert_allclose(rows["activation_clean"], clean[at], atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(rows["activation_corrupted"], corrupted[at], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prompt", range(2))
def test_fap_reads_the_gradient_of_its_own_layer(case: Case, prompt: int):
    """score = change x <W_dec[layer][feature], d metric / d MLP output of the layer>."""
    pair, model, config = PAIRS[prompt], case.model.transformer, case.model.config
    tokens = jnp.asarray(case.model.tokenizer.encode(pair.clean))
    target, distractor = (
        case.model.tokenizer.answer_id(text) for text in (pair.target, pair.distractor)
    )

    def metric(delta: jax.Array) -> jax.Array:
        logits = model(tokens, delta, FROZEN).logits[-1]
        return logits[target] - logits[distractor]

    shape = (config.num_layers, len(tokens), config.d_model)
    gradient = np.asarray(jax.grad(metric)(jnp.zeros(shape)), np.float64)
    rows = rows_where(case.tables["scores"], prompt=prompt)
    expected = []
    for layer, position, feature, a, b in zip(
        *(rows[name] for name in ("layer", "position", "feature")),
        rows["activation_clean"],
        rows["activation_corrupted"],
        strict=True,
    ):
        row = case.transcoder.decoder_maps[layer][feature, 0].astype(np.float64)
        expected.append(float(a - b) * float(row @ gradient[layer, position]))
    largest = np.abs(expected).max()
    np.testing.assert_allclose(rows["fap"], expected, atol=1e-5 * largest + 1e-6)
    assert largest > 0.1


def test_exact_effects_and_circuits_write_to_their_own_layer(case: Case):
    inputs = prepare(case.model, case.transcoder, PAIRS, OPTIONS)
    assert bool((inputs.problem.writes.first == inputs.problem.writes.last).all())
    for prompt in range(2):
        slow = SlowPrompt(inputs, case.transcoder, prompt)
        scores = rows_where(case.tables["scores"], prompt=prompt)
        for n in range(0, slow.count, 7):
            assert scores["factp"][n] == pytest.approx(slow.effect([n]), abs=TOLERANCE)
        for method in ("fap", "random"):
            which = {"prompt": prompt, "method": method}
            kept = places(rows_where(case.tables["selections"], **which))
            removed = np.flatnonzero(~np.isin(places(scores), kept)).tolist()
            behaviour = rows_where(case.tables["behaviour"], **which)
            assert behaviour["metric_circuit"][0] == pytest.approx(
                slow.metric(removed), abs=TOLERANCE
            )
            assert behaviour["kl_last"][0] == pytest.approx(slow.kl(removed), abs=TOLERANCE)
            members = [n for n in range(slow.count) if n not in set(removed)]
            assert behaviour["metric_complement"][0] == pytest.approx(
                slow.metric(members), abs=TOLERANCE
            )


def test_rows_of_the_search_hold_their_own_layer(case: Case):
    inputs = prepare(case.model, case.transcoder, PAIRS, OPTIONS)
    space = search_space(inputs, 4096)
    assert space.own_layers == case.model.config.num_layers
    assert space.rows.shape[-1] == WIDTH
    search = SearchCase(inputs, case.transcoder, space)
    for prompt in range(2):
        members = search.real(prompt)[::3][:12].tolist()
        assert search.kl(prompt, members) == pytest.approx(
            search.slow_kl(prompt, members), abs=TOLERANCE
        )
        _, gain = search.loss_and_gain(prompt, members)
        step, index = 1e-2, members[0]
        up, down = (search.loss_with_share(prompt, members, index, x) for x in (step, -step))
        assert gain[index] == pytest.approx((down - up) / (2 * step), rel=0.02, abs=2e-3)
