"""Functions on arrays equal the pipeline on the same weights, and work for other models."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from prune_helpers import columns, rows_where, tiny_model, tiny_pairs, tiny_transcoder

import pie_jax
from pie_jax import arrays
from pie_jax.errors import InputError
from pie_jax.models.gradient_rules import FROZEN
from pie_jax.models.loader import LanguageModel
from pie_jax.prune.batch.metrics import METRICS
from pie_jax.prune.methods import METHODS, Method
from pie_jax.tasks import encode_pairs

ROOT = Path(__file__).parents[2]
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory):
    """Return model, transcoder, one pair as ids, and what `pie_jax.prune` says of it."""
    model = tiny_model(tmp_path_factory.mktemp("model"))
    transcoder = tiny_transcoder(model, jump=True)
    pairs = tiny_pairs([11])
    result = pie_jax.prune(model, transcoder, pairs, methods=("fap",), budgets=(5,))
    encoded, _ = encode_pairs(pairs, model.tokenizer, needs_target=True)
    return model, transcoder, encoded[0], result


@pytest.fixture(scope="module")
def on_arrays(case):
    model, transcoder, pair, _ = case
    dictionary = arrays.dictionary_of(transcoder.module())
    prompt = arrays.prompt(pair.clean, pair.target_id, pair.distractor_id)
    run = arrays.as_model(model.transformer)
    found = arrays.occurrences(run, dictionary, prompt, jnp.asarray(pair.corrupted[0]))
    return run, dictionary, prompt, found


def test_occurrences_and_scores_are_the_pipelines(case, on_arrays):
    model, _, _, result = case
    _, dictionary, prompt, found = on_arrays
    table = columns(result.scores)
    frozen = arrays.as_model(model.transformer, rule=FROZEN)
    scores = arrays.attribute(frozen, dictionary, found, prompt, arrays.logit_difference)
    count = int(found.count)
    order = np.lexsort((table["feature"], table["position"], table["layer"]))
    for name in ("layer", "position", "feature"):
        np.testing.assert_array_equal(getattr(found, name)[:count], table[name][order])
    np.testing.assert_allclose(found.clean[:count], table["activation_clean"][order], **CLOSE)
    np.testing.assert_allclose(scores[:count], table["fap"][order], **CLOSE)
    assert not np.asarray(scores[count:]).any()


def test_behaviour_is_the_pipelines(case, on_arrays):
    run, dictionary, prompt, found = on_arrays
    result = case[3]
    kept = rows_where(columns(result.selections), method="fap", budget=5)
    place = zip(kept["layer"], kept["position"], kept["feature"], strict=True)
    index = {
        key: n
        for n, key in enumerate(zip(*(np.asarray(x).tolist() for x in found[:3]), strict=True))
    }
    mask = np.zeros(len(found.layer), np.float32)
    mask[[index[tuple(map(int, one))] for one in place]] = 1.0
    of = partial(arrays.behaviour, run, dictionary, found, prompt)
    circuit, rest = (of(jnp.asarray(m), arrays.logit_difference) for m in (mask, 1 - mask))
    row = rows_where(columns(result.behaviour), method="fap", budget=5)
    np.testing.assert_allclose(circuit.kl_last, row["kl_last"][0], **CLOSE)
    np.testing.assert_allclose(circuit.kl_mean, row["kl_mean"][0], **CLOSE)
    np.testing.assert_allclose(circuit.metric, row["metric_circuit"][0], **CLOSE)
    np.testing.assert_allclose(rest.metric, row["metric_complement"][0], **CLOSE)
    kl = arrays.circuit_kl(run, dictionary, found, prompt, jnp.asarray(mask))
    np.testing.assert_allclose(kl, circuit.kl_last, **CLOSE)


def test_the_gradient_of_kl_is_a_finite_difference(on_arrays):
    run, dictionary, prompt, found = on_arrays
    kl = jax.jit(partial(arrays.circuit_kl, run, dictionary, found, prompt))
    mask = jnp.where(found.valid, 0.5, 0.0)
    gradient = jax.grad(kl)(mask)
    at = int(abs(gradient).argmax())
    step = jnp.zeros_like(mask).at[at].set(1e-2)
    slope = (kl(mask + step) - kl(mask - step)) / 2e-2
    np.testing.assert_allclose(gradient[at], slope, rtol=2e-2)


def test_removals_are_exact(on_arrays):
    run, dictionary, prompt, found = on_arrays
    sets = jnp.asarray([[0, 3], [5, -1]])
    effects = arrays.removal_effects(run, dictionary, found, prompt, arrays.logit_difference, sets)
    ones = jnp.ones(len(found.layer))
    metric = [
        arrays.behaviour(run, dictionary, found, prompt, mask, arrays.logit_difference).metric
        for mask in (ones, ones.at[jnp.asarray([0, 3])].set(0.0), ones.at[5].set(0.0))
    ]
    np.testing.assert_allclose(effects, [metric[0] - metric[1], metric[0] - metric[2]], **CLOSE)


def test_a_list_that_is_too_short_says_so(on_arrays):
    run, dictionary, prompt, found = on_arrays
    short = arrays.occurrences(run, dictionary, prompt, size=4)
    assert int(short.count) > 4
    assert int(found.count) <= len(found.layer)


@pytest.mark.parametrize("bad", ["decoders", "shape", "more axes", "threshold"])
def test_shapes_that_do_not_match(bad: str):
    weight, bias = jnp.zeros((2, 6, 4)), jnp.zeros((2, 6))
    decoders = [jnp.zeros((6, 2, 4)), jnp.zeros((6, 1, 4))]
    if bad == "decoders":
        decoders = decoders[:1]
    elif bad != "threshold":
        decoders[1] = jnp.zeros((6, 2, 4) if bad == "shape" else (6, 1, 4, 1))
    # One for each feature, of no layer.
    threshold = jnp.zeros(6) if bad == "threshold" else None
    with pytest.raises(ValueError, match="threshold" if bad == "threshold" else "decoder"):
        arrays.dictionary(weight, bias, decoders, threshold)


@pytest.mark.slow
def test_a_foreign_model_alone_and_on_a_foreign_mesh():
    """The script of the docs: own nnx model, arrays, metric, a learned mask, eight devices."""
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "own_model.py"],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "8 prompts on (('replica', 4), ('tensor', 2))" in done.stdout


class Affine:
    """A model as a plain pytree function, as equinox has them: parameters are leaves."""

    def __init__(self, weights: dict[str, jax.Array]):
        self.weights = weights

    def __call__(self, tokens: jax.Array, mlp_delta: jax.Array) -> arrays.Run:
        x = self.weights["embed"][tokens]
        inputs = []
        for layer in range(len(mlp_delta)):
            x = x + jnp.cumsum(x, axis=0) @ self.weights["mix"][layer]
            inputs.append(x)
            x = x + mlp_delta[layer]
        return arrays.Run(jnp.stack(inputs), x @ self.weights["embed"].T)


jax.tree_util.register_pytree_node(
    Affine, lambda one: ((one.weights,), None), lambda _, leaves: Affine(*leaves)
)


def test_a_pytree_model_as_an_argument_of_jit():
    """In a model that is linear, removing is exactly what the score says."""
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape) / 4, jnp.float32)

    model = Affine({"embed": draw(12, 8), "mix": draw(2, 8, 8)})
    dictionary = arrays.dictionary(draw(2, 16, 8), draw(2, 16), [draw(16, 2, 8), draw(16, 1, 8)])
    prompt = arrays.prompt([0, 3, 5, 7, 2], target=4, distractor=9)

    @jax.jit
    def both(model):
        found = arrays.occurrences(model, dictionary, prompt, size=256)
        scores = arrays.attribute(model, dictionary, found, prompt, arrays.logit_difference)
        sets = jnp.arange(20)[:, None]
        effects = arrays.removal_effects(
            model, dictionary, found, prompt, arrays.logit_difference, sets
        )
        return found.count, scores[:20], effects

    count, scores, effects = both(model)
    assert 20 < int(count) <= 256
    np.testing.assert_allclose(scores, effects, rtol=1e-4, atol=1e-5)


def test_a_run_without_files_or_tokenizer(case):
    model, transcoder, pair, result = case
    bare = LanguageModel(model.transformer)
    pairs = [pie_jax.TokenPair(pair.clean, pair.corrupted, pair.target_id, pair.distractor_id)]
    memory = pie_jax.transcoder_in_memory(transcoder.module())
    found = pie_jax.prune(bare, memory, pairs, methods=("fap",), budgets=(5,))
    for name in ("scores", "selections", "behaviour"):
        assert getattr(found, name).equals(getattr(result, name))
    assert found.record["config"]["sha256"]["model"] is None


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"out": "results"}, "only in memory"),
        ({"pairs": "text"}, "no tokenizer"),
        ({"pairs": "large"}, "holds the id 1000"),
    ],
)
def test_what_memory_cannot_do(case, tmp_path: Path, change: dict, sentence: str):
    model, transcoder, pair, _ = case
    clean = (*pair.clean[:-1], 1000) if change.get("pairs") == "large" else pair.clean
    pairs = [pie_jax.TokenPair(clean, pair.corrupted, pair.target_id, pair.distractor_id)]
    if change.get("pairs") == "text":
        pairs = tiny_pairs([11])
    out = tmp_path / "results" if "out" in change else None
    with pytest.raises(InputError, match=sentence):
        pie_jax.prune(
            LanguageModel(model.transformer), transcoder, pairs,
            methods=("fap",), budgets=(5,), out=out,
        )  # fmt: skip


def test_own_metric_and_method_in_a_run(case, monkeypatch: pytest.MonkeyPatch):
    model, transcoder, pair, _ = case

    def log_probability(logits, prompt):
        return jax.nn.log_softmax(logits)[prompt.target]

    monkeypatch.setitem(METRICS, "own", pie_jax.own_metric("own", log_probability))
    first = Method("first", "the first ones", scores=lambda inputs: -np.arange(
        inputs.occurrences.clean.shape[1], dtype=np.float32)[None] - 1)  # fmt: skip
    monkeypatch.setitem(METHODS, "first", first)
    pairs = [pie_jax.TokenPair(pair.clean, pair.corrupted, pair.target_id, pair.distractor_id)]
    result = pie_jax.prune(
        model, transcoder, pairs, methods=("fap", "first"), budgets=(5,), metric="own"
    )
    clean = float(result.behaviour["metric_clean"][0].as_py())
    logits = model.transformer(jnp.asarray(pair.clean)).logits[-1]
    np.testing.assert_allclose(clean, jax.nn.log_softmax(logits)[pair.target_id], rtol=1e-5)


def test_an_entry_point_is_loaded_when_asked_for(monkeypatch: pytest.MonkeyPatch):
    from importlib.metadata import EntryPoint

    from pie_jax import extensions

    points = {
        "json": EntryPoint("json", "json:loads", "pie_jax.things"),
        "broken": EntryPoint("broken", "no_such_module:x", "pie_jax.things"),
    }
    monkeypatch.setattr(
        extensions, "entry_points", lambda group, name: [points[name]] if name in points else []
    )
    known = extensions.Registry("pie_jax.things", {"own": 1})
    assert "json" in known
    assert known["json"]("1") == 1
    assert "other" not in known
    with pytest.raises(InputError, match="broken"):
        known["broken"]


def test_a_mesh_with_other_names(case):
    model, transcoder, pair, result = case
    devices = np.asarray(jax.devices()[:4]).reshape(2, 2)
    mesh = Mesh(devices, ("tensor", "replica"), axis_types=(AxisType.Auto,) * 2)
    pairs = [pie_jax.TokenPair(pair.clean, pair.corrupted, pair.target_id, pair.distractor_id)] * 2
    run = partial(pie_jax.prune, model, transcoder, pairs, methods=("fap",), budgets=(5,))
    with pytest.raises(InputError, match="adopted_mesh"):
        run(mesh=mesh)
    adopted = pie_jax.adopted_mesh(mesh, data="replica", model="tensor")
    assert dict(adopted.shape) == {"data": 2, "model": 2}
    found = run(mesh=adopted)
    kl = result.behaviour["kl_last"].to_numpy()[0]
    np.testing.assert_allclose(found.behaviour["kl_last"].to_numpy(), kl, **CLOSE)
    with pytest.raises(InputError, match="no axis `rows`"):
        pie_jax.adopted_mesh(mesh, data="rows")
    with pytest.raises(InputError, match="neither data nor model"):
        pie_jax.adopted_mesh(mesh, data="replica")
