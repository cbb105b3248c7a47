"""Interventions equal the slow version: NumPy, one list of changes and one prompt at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from intervene_helpers import Case, SlowRun, make_case, near, slow_intervene
from prune_helpers import ARITHMETIC, tiny_model, tiny_transcoder

import pie_jax
from pie_jax.errors import InputError
from pie_jax.features.activations import FeatureReader
from pie_jax.features.records import FeatureKey
from pie_jax.intervene.changes import Change
from pie_jax.intervene.passes import run_changes
from pie_jax.models.gradient_rules import FROZEN

PROMPTS = ["w5 w9 w13 w22 w7 w30", "w31 w8 w4"]
# Earlier features change what later ones read; one place is changed in both signs.
LISTS = [
    [Change(0, 3, 2, value=3.0)],
    [Change(1, 5, slice(1, None), scale=-2.0), Change(0, 7, slice(None), value=2.0)],
    [Change(0, 1, -1, scale=2.0), Change(1, 2, -2, remove=True), Change(2, 4, -1, value=-1.5)],
]


@pytest.fixture(scope="module", params=["llama", "gemma", "topk"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("model"), request.param)


def check_activations(found: Any, slow: list[list[SlowRun]]) -> None:
    table = {name: found.activations[name].to_numpy() for name in found.activations.schema.names}
    for b, runs in enumerate(slow):
        for s, run in enumerate(runs):
            here = (table["prompt"] == b) & (table["list"] == s)
            at = tuple(table[name][here] for name in ("layer", "position", "feature"))
            for name in ("before", "after"):
                near(table[name][here], getattr(run, f"act_{name}")[at])
                near(table[f"pre_{name}"][here], getattr(run, f"pre_{name}")[at])
            active = (run.act_before != 0) | (run.act_after != 0)
            active[:, 0] = False
            assert active.sum() == here.sum()
            assert active[at].all()


@pytest.mark.parametrize("freeze", ["direct", "attention", "nothing"])
def test_runs_equal_the_slow_ones(case: Case, freeze: str):
    found = pie_jax.intervene(
        case.model, case.transcoder, PROMPTS, LISTS, freeze=freeze, logits="all",
        targets=["w9", 4], activations="active", pre_activations=True, batch_size=4,
    )  # fmt: skip
    slow = [
        [slow_intervene(case.slow, case.transcoder, ids, changes, freeze) for changes in LISTS]
        for ids in found.tokens
    ]
    for b, ids in enumerate(found.tokens):
        near(found.before[b, : len(ids)], slow[b][0].before)
        assert np.isnan(found.before[b, len(ids) :]).all()
        for s, run in enumerate(slow[b]):
            near(found.after[b, s, : len(ids)], run.after)
            assert np.isnan(found.after[b, s, len(ids) :]).all()
            assert np.abs(run.after - run.before).max() > 0.1
    check_activations(found, slow)
    cap = case.model.config.final_softcap
    for b, runs in enumerate(slow):
        for s, run in enumerate(runs):
            before, after = (x[-1] if cap is None else cap * np.arctanh(x[-1] / cap)
                             for x in (run.before, run.after))  # fmt: skip
            moved = after - before
            near(found.target_changes[b, s], (moved - moved.mean())[[9, 4]], np.abs(after).max())


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("plain"), "gemma")


def moves(case: Case, lists: Any, freeze: str) -> tuple[np.ndarray, np.ndarray]:
    """Return by how much targets [S, K] and some pre-activations [S, n] move."""
    keys = [(layer, feature) for layer in range(3) for feature in range(0, 24, 5)]
    found = pie_jax.intervene(
        case.model, case.transcoder, PROMPTS[0], lists, freeze=freeze,
        targets=list(range(40)), activations=keys, pre_activations=True,
    )  # fmt: skip
    table = found.activations
    moved = table["pre_after"].to_numpy() - table["pre_before"].to_numpy()
    return found.target_changes, moved.reshape(len(lists), -1)


# Each is active; the one of layer 1 reads what the other two write.
TOGETHER = [
    Change(0, 5, 1, scale=3.0),
    Change(0, 8, slice(1, None), value=4.0),
    Change(1, 0, -1, value=2.0),
]


@pytest.mark.parametrize("freeze", ["direct", "attention", "nothing"])
def test_changes_at_once_are_the_sum_of_direct_effects_alone(plain: Case, freeze: str):
    lists = [TOGETHER, *([change] for change in TOGETHER)]
    for moved in moves(plain, lists, freeze):
        apart = np.abs(moved[0] - moved[1:].sum(axis=0)).max()
        largest = np.abs(moved).max()
        assert largest > 0.1
        assert apart < 1e-5 * largest if freeze == "direct" else apart > 0.01 * largest


def active(case: Case) -> tuple[int, int]:
    """Return a feature of the first layer that is active at position 2, and its activation."""
    found = pie_jax.intervene(
        case.model, case.transcoder, PROMPTS[0], TOGETHER, activations="active"
    )
    rows = found.activations.to_pylist()
    row = next(row for row in rows if (row["layer"], row["position"]) == (0, 2) and row["before"])
    return row["feature"], row["before"]


def test_doubling_and_removal_move_direct_effects_by_the_activation(plain: Case):
    feature, activation = active(plain)

    def change(**amount: Any) -> list[Change]:
        return [Change(0, feature, 2, **amount)]

    lists = [
        change(scale=2.0), change(remove=True), change(scale=1.0), change(scale=-3.0),
        change(value=activation * 2), change(value=activation + 1.0),
    ]  # fmt: skip
    for moved in moves(plain, lists, "direct"):
        double, largest = moved[0], np.abs(moved).max()
        times = [1, -1, 0, -4, 1, 1 / activation]
        np.testing.assert_allclose(moved, np.outer(times, double), atol=1e-5 * largest)
        assert np.abs(double).max() > 0.01


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ARITHMETIC)
def test_direct_effects_are_the_derivative_of_the_frozen_model(tmp_path, kind: str, dtype: str):
    """And with nothing frozen a change is an addition to the MLPs, for all that a model may do."""
    model = tiny_model(tmp_path, **ARITHMETIC[kind])
    cast = jax.tree.map(lambda leaf: leaf.astype(dtype), model.transformer)
    model = replace(model, transformer=cast)
    transcoder = tiny_transcoder(model, bias=0.5)
    change = Change(1, 7, slice(2, 5), scale=3.0)
    tokens = jnp.asarray(model.tokenizer.encode(PROMPTS[0]), jnp.int32)

    @jax.jit
    def slow(model: Any) -> tuple[Any, ...]:
        streams = model.streams(tokens)
        own = transcoder.encoder(1)(streams.resid_mid[1])[:, 7]
        at = jnp.arange(len(tokens))
        moved = jnp.where((at >= 2) & (at < 5), 2 * own, 0.0)
        row = transcoder.decoder_maps[1][7]
        delta = jnp.zeros_like(streams.mlp_out)
        delta = delta.at[1:].set(moved[:, None] * row[:, None])

        def logits(delta: Any) -> Any:
            return model.uncapped_logits(model.streams(tokens, delta, FROZEN).residual, FROZEN)

        before, shift = jax.jvp(logits, (jnp.zeros_like(delta),), (delta,))
        return model.softcapped(before + shift), model(tokens, delta).logits

    def run(freeze: str) -> np.ndarray:
        return pie_jax.intervene(model, transcoder, PROMPTS[0], [change], freeze=freeze,
                                 logits="all").after  # fmt: skip

    direct, nothing = slow(model.transformer)
    tolerance = 1e-5 if dtype == "float32" else 2e-2
    scale = float(jnp.abs(nothing).max())
    np.testing.assert_allclose(run("direct"), direct, atol=tolerance * scale)
    np.testing.assert_allclose(run("nothing"), nothing, atol=tolerance * scale)
    assert np.abs(direct - nothing).max() > 0.05


def test_batches_and_the_last_position_change_nothing(plain: Case):
    def run(**options: Any) -> Any:
        return pie_jax.intervene(plain.model, plain.transcoder, PROMPTS, LISTS, freeze="attention",
                                 activations="active", **options)  # fmt: skip

    whole, parts = run(), run(batch_size=2)
    near(parts.after, whole.after)
    assert parts.activations.num_rows == whole.activations.num_rows
    near(parts.activations["after"].to_numpy(), whole.activations["after"].to_numpy())
    every = run(logits="all")
    for b, ids in enumerate(every.tokens):
        near(every.after[b, :, len(ids) - 1], whole.after[b])
    one = pie_jax.intervene(plain.model, plain.transcoder, PROMPTS[1], LISTS[2], freeze="attention")
    assert one.after.shape == one.before.shape == (40,)
    near(one.after, whole.after[1, 2])
    # A prompt as ids is the same one.
    ids = pie_jax.intervene(
        plain.model, plain.transcoder, [list(one.tokens[0])], LISTS[2], freeze="attention"
    )
    near(ids.after[0], one.after)


@pytest.mark.parametrize("prompt", [[1, 40], [1, -1]])
def test_ids_that_are_none_of_the_models_are_refused(plain: Case, prompt: Any):
    with pytest.raises(InputError, match="neither a text nor a list of ids from 0 to 39"):
        pie_jax.intervene(plain.model, plain.transcoder, [prompt], LISTS[2])


@pytest.mark.parametrize("kind", ["gemma", "topk"])
def test_asked_features_have_a_row_at_each_position(tmp_path, kind: str):
    case = make_case(tmp_path, kind)
    keys = [*(FeatureKey(2, feature) for feature in range(8)), FeatureKey(0, 5)]
    found = pie_jax.intervene(
        case.model, case.transcoder, PROMPTS, LISTS, activations=keys
    ).activations
    assert "pre_before" not in found.schema.names
    table = {name: found[name].to_numpy() for name in found.schema.names}
    tokens = np.zeros((2, 8), np.int32)
    lengths = np.array([7, 4], np.int32)
    for b, prompt in enumerate(PROMPTS):
        tokens[b, : lengths[b]] = case.model.tokenizer.encode(prompt)
    expected = FeatureReader(case.model, case.transcoder, keys).read(tokens, lengths)
    assert len(table["before"]) == len(LISTS) * len(keys) * (lengths - 1).sum()
    column = np.where(table["layer"] == 0, 8, table["feature"])
    near(table["before"], expected[table["prompt"], table["position"], column])
    assert np.abs(table["after"] - table["before"]).max() > 0.1


def test_prompts_of_a_class_of_lengths_share_a_program(plain: Case):
    def run(prompt: str, changes: list[Change]) -> None:
        pie_jax.intervene(plain.model, plain.transcoder, prompt, changes)

    run("w5 w9 w13", [Change(0, 3, 2, value=1.0)])
    compiled = run_changes.count()
    run("w5 w9 w13 w7 w8", [Change(0, 3, 2, value=1.0), Change(2, 4, slice(1, None), scale=2.0)])
    assert run_changes.count() == compiled
