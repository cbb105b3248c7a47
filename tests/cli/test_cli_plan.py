"""`pie-jax plan`: what goes where, without loading anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_helpers import pie

from pie_jax.demo import __file__ as demo_file
from pie_jax.devices import rates
from pie_jax.models import loader as model_loader
from pie_jax.prune.plan import estimate as planning
from pie_jax.prune.plan.speed import Rates
from pie_jax.transcoders import loader
from pie_jax.transcoders import store as stored

DEMO = Path(demo_file).parent


@pytest.fixture(autouse=True)
def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch):
    """Weights stay where they are, and rates are not measured but where a test says so."""
    for module, name in (
        (model_loader, "load_transformer"),
        (stored, "load_encoder"),
    ):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("loaded"))
    monkeypatch.setattr(planning, "matmul_flops", lambda _: 1e12)
    monkeypatch.setattr(planning, "copy_bytes", lambda: 1e11)


def test_the_demo_by_its_pairs(monkeypatch, tmp_path, capsys):
    pairs = tmp_path / "pairs.jsonl"
    assert pie(monkeypatch, "tasks", "ioi", "-n", 3, "--out", pairs) == 0
    capsys.readouterr()
    call = ("plan", "--device-memory", "16GiB", "--host-memory", "8GiB", "--pairs", pairs)
    assert pie(monkeypatch, *call, "--method", "fap", "--budget", "10") == 0
    shown = capsys.readouterr().out
    # Weights of the model, and occurrences of two batches.
    for part in ("model weights", "5.51 MiB", "1.88 MiB", "host memory", "largest batch", "peak"):
        assert part in shown
    assert "estimate" in shown
    assert "use: --encoders device --batch-size 8" in shown
    assert "GB/s, rows" in shown
    assert "streams of removals" not in shown


def test_prompts_without_corruption_and_distractor(monkeypatch, tmp_path, capsys):
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("clean,target\nPeter and Joe, Peter\n")
    call = ("plan", "--pairs", pairs, "--device-memory", "1GiB")
    assert pie(monkeypatch, *call) == 2
    assert "too-short 1" in capsys.readouterr().err
    own = ("--corruption", "zero-features", "--metric", "logit-above-mean", "--min-tokens", 2)
    assert pie(monkeypatch, *call, *own) == 0
    assert "model weights" in capsys.readouterr().out


def test_a_real_shape_before_it_is_here(monkeypatch, capsys):
    call = ("plan", "--model", "llama-3.2-1b", "--transcoder", "16x32768", "--dtype", "bfloat16")
    assert pie(monkeypatch, *call, "--device-memory", "80GiB") == 0
    shown = capsys.readouterr().out
    assert "17.0 GiB" in shown
    assert "disk" in shown
    assert "reading rows not measured: the files are not here" in shown
    assert pie(monkeypatch, *call, "--device-memory", "1GiB") == 0
    shown = capsys.readouterr().out
    assert "does not fit: not even one prompt" in shown
    assert "estimate" not in shown
    assert pie(monkeypatch, *call, "--device-memory", "24GiB", "--batch-size", "500") == 0
    assert "--batch-size 500 does not fit; use " in capsys.readouterr().out


def test_a_folder_without_weights_is_enough_for_the_model(monkeypatch, tmp_path, capsys):
    folder = tmp_path / "model"
    folder.mkdir()
    config = (DEMO / "model" / "config.json").read_text()
    (folder / "config.json").write_text(config)
    layers = json.loads(config)["num_hidden_layers"]
    call = ("plan", "--model", folder, "--device-memory", "1GiB", "--transcoder")
    assert pie(monkeypatch, *call, f"{layers}x512") == 0
    assert "model weights" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--device-memory", "80 apples"], "--device-memory: `80 apples` is not a size"),
        (["--host-memory", "much"], "--host-memory: `much`"),
        (["--batch-size", "0"], "--batch-size"),
        (["--tokens", "1"], "--tokens"),
        (["--active", "0"], "--active"),
        (["--active", "nan"], "--active"),
        (["--method", "fab"], "--method: `fab`"),
        (["--budget", "ten"], "--budget: `ten`"),
        (["--dtype", "int8"], "dtype `int8`"),
        (["--model", "/no/such"], "/no/such"),
        (["--transcoder", "/no/such"], "--transcoder /no/such"),
        (["--transcoder", "owner/name"], "16x32768"),
        (["--transcoder", "3x64"], "--transcoder 3x64: has 3 layers"),
        (["--pairs", "/no/such.jsonl"], "/no/such.jsonl"),
        (["--pairs", "PAIRS", "--tokens", "9"], "--tokens"),
        (["--pairs", "PAIRS", "--model", "llama-3.2-1b", "--transcoder", "16x64"], "tokenizer"),
    ],
)
def test_bad_input_is_one_sentence(monkeypatch, tmp_path, capsys, arguments, named):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    pairs = tmp_path / "pairs.jsonl"
    row = {"clean": "a b", "corrupted": "a c", "target": " d", "distractor": " e"}
    pairs.write_text(json.dumps(row) + "\n")
    arguments = [pairs if argument == "PAIRS" else argument for argument in arguments]
    assert pie(monkeypatch, "plan", "--device-memory", "1GiB", *arguments) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1
    assert "defect" not in error


def test_rates_are_measured_here(tmp_path):
    """Positive numbers; and rows come from the files."""
    found = Rates(rates.matmul_flops("float32"), rates.copy_bytes(), None)
    assert found.flops > 0
    assert found.copy > 0
    maps = loader.load_transcoder("demo", encoders_on_disk=True).decoder_maps
    for cached in (False, True):
        assert rates.read_bytes(maps, cached=cached) > 0
