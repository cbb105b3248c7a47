"""Training of per-layer transcoders and of other activations: what is written, and resuming."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cli_helpers import pie
from test_transcoder_training import OPTIONS, corpus, folder, model  # noqa: F401
from test_transcoder_training_parts import _batch

from pie_jax.errors import InputError
from pie_jax.models.loader import LanguageModel
from pie_jax.transcoders.config import TranscoderConfig
from pie_jax.transcoders.loader import load_transcoder
from pie_jax.transcoders.training.options import TrainOptions
from pie_jax.transcoders.training.placement import first_state, revive
from pie_jax.transcoders.training.refit import best_move, products, solve
from pie_jax.transcoders.training.report import read_report
from pie_jax.transcoders.training.run import train_clt
from pie_jax.transcoders.training.state import (
    Form,
    activations,
    estimate,
    export,
    feature_thresholds,
)
from pie_jax.transcoders.training.step import train_step
from pie_jax.transcoders.training.stream import Streamed

FORMS = {
    "relu": Form("relu"),
    "per-layer": Form(cross_layer=False),
    "per-layer-topk-skip": Form("topk", cross_layer=False, skip=True, k=4),
}


@pytest.mark.parametrize("name", FORMS)
def test_an_exported_transcoder_computes_what_was_trained(name: str):
    """After some steps, so that the skip and the thresholds are no longer as they began."""
    form = FORMS[name]
    scales, batch, inputs = _batch(60, 50)
    state = first_state(32, batch, 4.0, jax.random.key(1), form)
    step = jax.jit(train_step, static_argnames="form")
    losses = []
    for _ in range(30):
        state, metrics = step(state, batch, jnp.float32(4.0), jnp.float32(3e-3), form=form)
        losses.append(float(metrics.unexplained.mean()))
    assert losses[-1] < losses[0]
    dead = jnp.zeros((3, 32), bool).at[:, :3].set(True)
    state = revive(state, batch, dead, jax.random.key(2), form)
    active = activations(state.weights, batch.inputs, feature_thresholds(state), form)
    sizes = {"cross_layer": form.cross_layer, "has_skip": form.skip, "k": form.k}
    made = export(state, scales, TranscoderConfig(3, 8, 32, form.activation, **sizes))
    ours = made.encode(jnp.asarray(inputs))
    np.testing.assert_allclose(ours, jnp.stack(active), atol=1e-3)
    expected = estimate(state.weights, batch.inputs, active)
    expected = expected * scales.output_scale[:, None, None] + scales.output_mean[:, None]
    given = jnp.stack(active)
    found = made.decode(given) + made.skipped(jnp.asarray(inputs))
    np.testing.assert_allclose(found, expected, atol=1e-2)
    if form.k is not None:
        assert (np.count_nonzero(ours, axis=-1) == 4).all()
    if form.skip:
        assert np.abs(state.weights.skip).max() > 1e-3


def test_refitted_decoders_are_those_of_ridge_regression_towards_the_old_ones():
    """Against float64 least squares on augmented rows; a feature that never fires keeps its own."""
    scales, batch, inputs = _batch(60, 50)
    form = FORMS["per-layer-topk-skip"]
    state = first_state(32, batch, 4.0, jax.random.key(1), form)
    weights = state.weights._replace(encoder_bias=state.weights.encoder_bias.at[1, 0].set(-1e6))
    sizes = {"cross_layer": False, "has_skip": True, "k": form.k}
    config = TranscoderConfig(3, 8, 32, form.activation, **sizes)
    made = export(state._replace(weights=weights), scales, config)
    targets = np.random.default_rng(1).normal(1, 3, inputs.shape).astype(np.float32)
    sums = products(made, Streamed(jnp.asarray(inputs), jnp.asarray(targets), batch.counts))
    moves = [solve(*map(np.float64, layer), 0.02) for layer in zip(*sums, strict=True)]
    active = np.float64(made.encode(jnp.asarray(inputs)))[:, :50]
    missing = np.float64(targets - made.skipped(jnp.asarray(inputs)))[:, :50]
    for layer, move in enumerate(moves):
        rows = np.pad(active[layer], ((0, 0), (0, 1)), constant_values=1.0)
        old = np.concatenate([made.decoders[layer][...][:, 0], made.bias[...][layer : layer + 1]])
        hold = np.diag(np.sqrt(0.02) * np.linalg.norm(rows, axis=0))[:-1]
        wanted = np.concatenate([missing[layer], hold @ old])
        expected, *_ = np.linalg.lstsq(np.concatenate([rows, hold]), wanted, rcond=None)
        fires = np.append(active[layer].any(axis=0), True)
        np.testing.assert_allclose((old + move)[fires], expected[fires], atol=1e-3)
        assert (move[~fires] == 0).all()
    assert not active[1][:, 0].any()


def test_a_refit_that_is_worse_for_other_tokens_is_not_made():
    """More features than tokens: what fits these tokens is noise for others."""
    random = np.random.default_rng(0)
    rows, others = random.normal(size=(2, 20, 30))
    noise, more = random.normal(size=(2, 20, 4))
    sums = rows.T @ rows, rows.T @ noise, others.T @ others, others.T @ more
    assert (best_move(*sums) == 0).all()
    truth = random.normal(size=(30, 4))
    wanted = rows.T @ rows, rows.T @ rows @ truth, others.T @ others, others.T @ others @ truth
    assert np.linalg.norm(best_move(*wanted)) > 1


def per_layer(**changes: Any) -> TrainOptions:
    return replace(OPTIONS, kind="per-layer", **changes)


TOPK = per_layer(activation="topk", skip=True, refit=6)


@pytest.fixture(scope="module")
def trained(
    model: LanguageModel,  # noqa: F811
    corpus: Path,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    out = tmp_path_factory.mktemp("trained") / "set"
    train_clt(model, [corpus], out, TOPK)
    return out


def test_the_folder_is_a_transcoder_set(trained: Path):
    assert sorted(path.name for path in trained.iterdir()) == [
        "config.yaml",
        *(f"layer_{layer}.safetensors" for layer in range(3)),
        "training_report.json",
    ]
    config = load_transcoder(trained).config
    assert (config.num_layers, config.d_model, config.features) == (3, 16, 48)
    assert (config.cross_layer, config.has_skip) == (False, True)
    assert (config.activation, config.k) == ("topk", 4)
    report = read_report(trained / "training_report.json").heldout
    assert report.l0 == (4.0, 4.0, 4.0)
    assert min(report.explained_variance) > 0.3


def test_the_report_is_what_the_written_set_does(trained: Path, model: LanguageModel, corpus: Path):  # noqa: F811
    from test_transcoder_training import _windows

    heldout = _windows(model, [corpus]).heldout
    transcoder = load_transcoder(trained).module()
    streams = [model.transformer.streams(jnp.asarray(row)) for row in heldout]
    counts = np.concatenate([row != 0 for row in heldout])
    outputs = np.concatenate([s.mlp_out for s in streams], axis=1)[:, counts]
    guesses = [transcoder.reconstruct(s.resid_mid) for s in streams]
    errors = (outputs - np.concatenate(guesses, axis=1)[:, counts]) ** 2
    spread = (outputs - outputs.mean(1, keepdims=True)) ** 2
    report = read_report(trained / "training_report.json").heldout
    expected = 1 - errors.sum((1, 2)) / spread.sum((1, 2))
    np.testing.assert_allclose(report.explained_variance, expected, atol=1e-4)


def test_interrupted_training_ends_in_the_same_weights(trained, model, corpus, tmp_path):  # noqa: F811
    class Stop(Exception):
        pass

    def stop(step: int, steps: int, metrics: dict[str, float]) -> None:
        assert metrics["tokens_per_second"] > 0
        if step == 30:
            raise Stop

    with pytest.raises(Stop):
        train_clt(model, [corpus], tmp_path / "set", TOPK, progress=stop)
    train_clt(model, [corpus], tmp_path / "set", TOPK)
    for path in trained.glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "set" / path.name).read_bytes()
    with pytest.raises(InputError, match=r"`activation` \(topk, now relu\)"):
        train_clt(model, [corpus], tmp_path / "set", per_layer(activation="relu", skip=True))


@pytest.mark.parametrize("activation", ["jumprelu", "relu"])
def test_steered_activations_reach_their_l0(model, corpus, tmp_path, activation):  # noqa: F811
    options = per_layer(activation=activation, steps=300, checkpoint_every=300, dead_after=25)
    report = train_clt(model, [corpus], tmp_path / "set", replace(options, heldout=80))
    assert report.mean_l0 == pytest.approx(4.0, rel=0.08)
    assert min(report.heldout.explained_variance) > 0.4
    assert load_transcoder(tmp_path / "set").config.activation == activation


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"skip": True}, "`skip` must be left out, or `kind` per-layer"),
        ({"refit": 2}, "`refit` must be 0, or `kind` per-layer"),
        ({"activation": "topk"}, "`activation` must be jumprelu or relu, or `kind` per-layer"),
        ({"activation": "topk", "kind": "per-layer", "l0": 3.5}, "`l0` must be a whole number"),
        (
            {"activation": "topk", "kind": "per-layer", "l0": (3.0, 3.0)},
            "`l0` must be a whole number",
        ),
        ({"activation": "gelu"}, "`activation` must be one of jumprelu, relu, topk"),
        ({"kind": "both"}, "`kind` must be one of cross-layer, per-layer"),
    ],
)
def test_options_that_do_not_go_together(change: dict[str, Any], named: str):
    with pytest.raises(InputError, match=named):
        replace(OPTIONS, **change)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (("--activation", "topk", "--l0", "4"), "--activation topk needs --k, and no --l0"),
        (("--k", "4"), "--activation jumprelu needs --l0, and no --k"),
        ((), "--activation jumprelu needs --l0"),
        (("--k", "4", "--l0", "3"), "needs --l0, and no --k"),
        (("--l0", "4,,4"), "--l0: `4,,4` is no number, nor numbers like 4,8,15."),
    ],
)
def test_the_command_asks_for_k_or_l0(
    given: tuple[str, ...], named: str, tmp_path: Path, monkeypatch, capsys
):
    (tmp_path / "text.txt").write_text("a")
    paths = ("--corpus", tmp_path / "text.txt", "--out", tmp_path / "out")
    assert pie(monkeypatch, "train-clt", *paths, "--features", "16", *given) == 2
    assert named in " ".join(capsys.readouterr().err.split())


def test_the_command_shows_loss_l0_and_tokens_a_second(
    folder: Path,  # noqa: F811
    corpus: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch,
    capsys,
):
    # The command's windows are longer than the tests'.
    longer = shutil.copytree(folder, tmp_path / "model")
    config = json.loads((longer / "config.json").read_text())
    (longer / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 128}))
    paths = ("--model", longer, "--corpus", corpus, "--out", tmp_path / "set")
    form = ("--kind", "per-layer", "--skip", "--activation", "topk", "--k", "3")
    sizes = ("--features", "16", "--steps", "10")
    assert pie(monkeypatch, "train-clt", *paths, *form, *sizes) == 0
    shown = " ".join(capsys.readouterr().err.split())
    assert re.search(r"10/10 steps, loss 0\.\d+, L0 3\.0, [\d,]+ tokens/s", shown)
    assert load_transcoder(tmp_path / "set").config.k == 3
