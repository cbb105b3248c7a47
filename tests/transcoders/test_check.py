"""A transcoder that fits is passed; a wrong hook, a wrong order of layers, another model: named."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from cli_helpers import pie
from prune_helpers import WORDS, tiny_model
from refusals import refuses

import pie_jax
from pie_jax.check.reading import read_streams, read_texts
from pie_jax.check.run import check_transcoder
from pie_jax.check.verdict import misplaced_layers
from pie_jax.demo.corpus import make_documents
from pie_jax.files.corpus.documents import TextCorpus
from pie_jax.models.loader import LanguageModel
from pie_jax.transcoders.config import InputSite, TranscoderConfig
from pie_jax.transcoders.store import EncoderArrays, Transcoder

FEATURES = 300


@cache
def corpus() -> TextCorpus:
    rng = np.random.default_rng(0)
    return TextCorpus([" ".join(rng.choice(WORDS, 30)) for _ in range(90)])


@cache
def model(seed: int = 0, gemma: bool = False) -> LanguageModel:
    import tempfile

    return tiny_model(Path(tempfile.mkdtemp()), gemma=gemma, seed=seed)


@cache
def fitted(site: InputSite, *, gemma: bool = False, skip: bool = False) -> Transcoder:
    """Return random ReLU features with decoders by least squares: they explain most of the MLPs."""
    ours = model(gemma=gemma)
    texts = read_texts(ours, corpus(), 2500, 32)
    streams = read_streams(ours, texts)
    inputs = np.asarray(
        ours.transformer.transcoder_inputs(jnp.asarray(streams.resid_mid), site), np.float64
    )
    rng, counts = np.random.default_rng(1), streams.position > 0
    encoders, decoders, biases, skips = [], [], [], []
    for x, y in zip(inputs[:, counts], streams.mlp_out[:, counts], strict=True):
        weight = rng.standard_normal((FEATURES, x.shape[1])) / np.linalg.norm(x, axis=1).mean()
        bias = 0.5 * rng.standard_normal(FEATURES)
        features = np.maximum(x @ weight.T + bias, 0)
        parts = [features, x] if skip else [features]
        known = np.concatenate([*parts, np.ones((len(x), 1))], axis=1)
        ridge = 1e-2 * np.eye(known.shape[1])
        found = np.linalg.solve(known.T @ known + ridge, known.T @ y)
        encoders.append(EncoderArrays(weight.astype(np.float32), bias.astype(np.float32), None))
        decoders.append(found[:FEATURES, None].astype(np.float32))
        biases.append(found[-1])
        if skip:
            skips.append(found[FEATURES:-1].T.astype(np.float32))
    layers, _, width = inputs.shape
    config = TranscoderConfig(
        layers, width, FEATURES, "relu", False, site, has_skip=skip, model_name="the-right-one"
    )
    folder = ours.folder
    bias_of = np.stack(biases).astype(np.float32)
    return Transcoder(config, "fitted", folder, (), encoders, decoders, bias_of, skips=skips)


def check(transcoder: Transcoder, *, seed: int = 0, gemma: bool = False):
    return check_transcoder(model(seed, gemma), transcoder, corpus(), tokens=1200, window=32)


@pytest.mark.parametrize(
    ("site", "gemma", "skip"),
    [("resid_mid", False, False), ("mlp_in", True, True), ("ln2_normalized", True, False)],
)
def test_what_fits_is_passed_and_measured(site: InputSite, gemma: bool, skip: bool):
    transcoder = fitted(site, gemma=gemma, skip=skip)
    report = check(transcoder, gemma=gemma)
    assert report.mistakes == ()
    assert len(report.neighbours) == (3 if gemma else 2)
    # Against a plain computation of the same.
    texts = read_texts(model(gemma=gemma), corpus(), 1200, 32)
    streams = read_streams(model(gemma=gemma), texts)
    transformer = model(gemma=gemma).transformer
    inputs = transformer.transcoder_inputs(jnp.asarray(streams.resid_mid), site)
    module, counts = transcoder.module(), streams.position > 0
    active = np.asarray(module.encode(inputs))[:, counts]
    written = np.asarray(module.decode(module.encode(inputs)) + module.skipped(inputs))[:, counts]
    outputs = streams.mlp_out[:, counts].astype(np.float64)
    variance = ((outputs - outputs.mean(1, keepdims=True)) ** 2).sum((1, 2))
    fvu = ((outputs - written) ** 2).sum((1, 2)) / variance
    np.testing.assert_allclose(report.named.fvu, fvu, rtol=1e-3)
    np.testing.assert_allclose(report.named.l0, (active > 0).sum(2).mean(1), rtol=1e-6)
    np.testing.assert_allclose(report.silent, (active == 0).all(1).mean(1), atol=1e-9)
    assert report.named.tokens == counts.sum()
    assert 0 <= report.replaced.top1 <= 1
    assert np.isfinite(report.replaced.kl)


@pytest.mark.parametrize("named", ["mlp_in", "ln2_normalized"])
def test_a_wrong_hook_is_named(named: InputSite):
    right = fitted("resid_mid")
    wrong = replace(right, config=replace(right.config, input_site=named))
    (mistake,) = check(wrong).mistakes
    assert mistake.startswith("hook:")
    assert "fit hook_resid_mid" in mistake


def test_the_norms_weight_makes_another_hook():
    right = fitted("ln2_normalized", gemma=True)
    wrong = replace(right, config=replace(right.config, input_site="mlp_in"))
    (mistake,) = check(wrong, gemma=True).mistakes
    assert "fit ln2.hook_normalized" in mistake
    assert "name mlp.hook_in" in mistake


def test_a_wrong_order_of_layers_is_named():
    right, order = fitted("resid_mid"), [2, 0, 1]
    wrong = replace(
        right,
        encoder_arrays=[right.encoder_arrays[i] for i in order],
        decoder_maps=[right.decoder_maps[i] for i in order],
        bias=right.bias[order],
    )
    report = check(wrong)
    assert [(one.layer, one.fits) for one in report.misplaced] == [(0, 2), (1, 0), (2, 1)]
    (mistake,) = report.mistakes
    assert mistake.startswith("order of layers: the file of layer 0 fits layer 2, 1 fits layer 0")


def test_another_model_is_named():
    (mistake,) = check(fitted("resid_mid"), seed=5).mistakes
    assert mistake.startswith("model:")
    assert "`the-right-one`" in mistake


def test_a_perfect_replacement_changes_nothing():
    """All features dead, and biases that are the MLPs' outputs: of one token alone."""
    ours = model()
    text = TextCorpus(["w5"] * 300)
    texts = read_texts(ours, text, 256, 16)
    streams = read_streams(ours, texts)
    transcoder = fitted("resid_mid")
    dead = [arrays._replace(bias=arrays.bias - 1e6) for arrays in transcoder.encoder_arrays]
    bias = streams.mlp_out[:, streams.position == 1][:, 0]
    exact = replace(transcoder, encoder_arrays=dead, bias=bias)
    from pie_jax.check.replaced import replaced

    found = replaced(ours, exact, texts)
    assert found.kl == pytest.approx(0, abs=1e-5)
    assert found.top1 == 1
    far = replaced(ours, replace(exact, bias=bias + 1), texts)
    assert far.kl > 1e-3


def test_layers_that_are_another_ones():
    alike = np.array([[0.5, 0.1, 0.0], [0.6, 0.2, 0.1], [0.01, 0.05, 0.0]])
    (one,) = misplaced_layers(alike)
    assert (one.layer, one.fits) == (1, 0)


def test_too_little_text():
    refuses(
        lambda: check_transcoder(model(), fitted("resid_mid"), TextCorpus(["w3 w4"]), window=32),
        "2 tokens",
        "256",
    )
    refuses(
        lambda: check_transcoder(model(), fitted("resid_mid"), corpus(), window=9999), "--window"
    )


def test_the_command_on_the_demo(monkeypatch, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(make_documents(150, seed=3)))
    call = ("check", "--corpus", text, "--tokens", 600, "--window", 64)
    assert pie(monkeypatch, *call) == 0
    shown = capsys.readouterr().out
    for part in ("FVU", "hook_resid_mid -> hook_mlp_out (named)", "KL", "no mistake found."):
        assert part in shown
    # The same with another hook in its config.
    folder = tmp_path / "clt"
    folder.mkdir()
    for path in pie_jax.load_transcoder("demo", encoders_on_disk=True).files:
        content = path.read_bytes().replace(b"hook_resid_mid", b"mlp.hook_in")
        (folder / path.name).write_bytes(content if path.suffix == ".yaml" else path.read_bytes())
    assert pie(monkeypatch, *call, "--transcoder", folder) == 1
    assert "hook: the features fit hook_resid_mid" in capsys.readouterr().out
