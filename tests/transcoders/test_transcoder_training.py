"""CLT training: data, the L0 control, resuming after kill -9, and the folder it writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from pie_jax.errors import InputError
from pie_jax.files.corpus.documents import FileCorpus
from pie_jax.models.config import ModelConfig
from pie_jax.models.loader import LanguageModel, load_model, save_model
from pie_jax.models.transformer import Transformer
from pie_jax.transcoders.loader import load_transcoder
from pie_jax.transcoders.training.data import Windows, make_windows
from pie_jax.transcoders.training.report import read_report
from pie_jax.transcoders.training.run import TrainOptions, train_clt

WORDS = "the a cat dog bird sat ran flew on under over mat rug tree and then it".split()
OPTIONS = TrainOptions(
    features=48, l0=4.0, steps=60, batch=4, window=24, checkpoint_every=10, heldout=16, dead_after=5
)


def _write_tokenizer(folder: Path, texts: list[str]) -> None:
    tokenizer = RawTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _texts(count: int) -> list[str]:
    random = np.random.default_rng(0)
    lengths = random.integers(4, 40, count)
    return [" ".join(random.choice(WORDS, length)) for length in lengths]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    _write_tokenizer(folder, _texts(200))
    config = ModelConfig(
        family="llama",
        vocab_size=300,
        num_layers=3,
        d_model=16,
        d_mlp=32,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        norm_eps=1e-5,
        rope_theta=10000.0,
        max_positions=64,
    )
    # Weights well above the usual initialisation, so that the MLPs do something to learn.
    graph, state = nnx.split(Transformer(config, nnx.Rngs(0)))
    transformer = nnx.merge(graph, jax.tree.map(lambda w: w * 12 if w.ndim > 1 else w, state))
    save_model(transformer, folder)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> LanguageModel:
    return load_model(folder)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in _texts(400)))
    return path


@pytest.fixture(scope="module")
def trained(model: LanguageModel, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "clt"
    train_clt(model, [corpus], out, OPTIONS)
    return out


def _weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def test_folder_is_circuit_tracers_with_a_report_and_no_checkpoints(trained: Path):
    assert sorted(path.name for path in trained.iterdir()) == [
        *(f"W_dec_{layer}.safetensors" for layer in range(3)),
        *(f"W_enc_{layer}.safetensors" for layer in range(3)),
        "config.yaml",
        "training_report.json",
    ]
    config = load_transcoder(trained).config
    assert (config.num_layers, config.d_model, config.features) == (3, 16, 48)
    assert config.activation == "jumprelu"


def test_report_is_what_the_written_transcoder_does(
    trained: Path, model: LanguageModel, corpus: Path
):
    heldout = _windows(model, [corpus]).heldout
    clt = load_transcoder(trained).module()
    streams = [model.transformer.streams(jnp.asarray(row)) for row in heldout]
    counts = np.concatenate([row != 0 for row in heldout])
    fired = np.concatenate([clt.encode(s.resid_mid) > 0 for s in streams], axis=1)[:, counts]
    outputs = np.concatenate([s.mlp_out for s in streams], axis=1)[:, counts]
    guesses = np.concatenate([clt.reconstruct(s.resid_mid) for s in streams], axis=1)[:, counts]
    errors = np.sum((outputs - guesses) ** 2, axis=(1, 2), dtype=np.float64)
    spread = np.sum((outputs - outputs.mean(1, keepdims=True)) ** 2, axis=(1, 2), dtype=np.float64)
    report = read_report(trained / "training_report.json").heldout
    assert report.tokens == counts.sum()
    np.testing.assert_allclose(report.explained_variance, 1 - errors / spread, atol=1e-4)
    np.testing.assert_allclose(report.l0, fired.sum(2).mean(1), atol=1e-2)
    np.testing.assert_allclose(report.dead_share, 1 - fired.any(1).mean(1), atol=1e-6)


def test_explains_the_mlps_at_the_l0_asked_for(model, corpus, tmp_path):
    options = replace(OPTIONS, steps=300, checkpoint_every=300, dead_after=25, heldout=80)
    options = replace(options, l0=(2.0, 4.0, 5.0))  # one a layer
    report = train_clt(model, [corpus], tmp_path / "clt", options)
    np.testing.assert_allclose(report.heldout.l0, options.l0, rtol=0.1)
    assert min(report.heldout.explained_variance) > 0.5
    assert max(report.heldout.dead_share) < 0.3
    # Asked for again, it is the same training, though JSON knows no tuples.
    assert train_clt(model, [corpus], tmp_path / "clt", options).heldout == report.heldout


def test_an_l0_a_layer_needs_one_of_every_layer(model, corpus, tmp_path):
    message = "`l0` must be one number, or one for each of the model's 3 layers, not 2"
    with pytest.raises(InputError, match=message):
        train_clt(model, [corpus], tmp_path / "clt", replace(OPTIONS, l0=(4.0, 4.0)))
    assert not (tmp_path / "clt").exists()


def test_interrupted_training_ends_in_the_same_weights(trained, model, corpus, tmp_path):
    class Stop(Exception):
        pass

    def stop(step: int, steps: int, metrics: dict[str, float]) -> None:
        if step == 30:
            raise Stop

    out, seen = tmp_path / "clt", []
    with pytest.raises(Stop):
        train_clt(model, [corpus], out, OPTIONS, progress=stop)
    report = train_clt(model, [corpus], out, OPTIONS, progress=lambda *now: seen.append(now[0]))
    assert seen == [30, 40, 50, 60]
    assert _weights(out) == _weights(trained)
    assert report.tokens == read_report(trained / "training_report.json").tokens


def test_killed_training_ends_in_the_same_weights(trained, model, folder, corpus, tmp_path):
    out = tmp_path / "clt"
    script = (
        "import sys; from dataclasses import replace; from pathlib import Path\n"
        "from pie_jax.models.loader import load_model\n"
        "from pie_jax.transcoders.training.run import TrainOptions, train_clt\n"
        f"train_clt(load_model({str(folder)!r}), [{str(corpus)!r}], Path({str(out)!r}),\n"
        f"    {OPTIONS!r}, progress=lambda step, *_: print(step, flush=True))\n"
    )
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(jax.device_count())}
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment, text=True
    )
    with process:
        # Step 30's checkpoint is being written while the process dies.
        assert any(line.strip() == "30" for line in process.stdout)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not list(out.glob("*.safetensors"))
    train_clt(model, [corpus], out, OPTIONS)
    assert _weights(out) == _weights(trained)
    assert not (out / ".training").exists()


def test_finished_training_returns_its_report(trained, model, corpus):
    before = _weights(trained)
    report = train_clt(model, [corpus], trained, OPTIONS, progress=pytest.fail)
    assert report == read_report(trained / "training_report.json")
    assert _weights(trained) == before


def test_death_while_publishing_is_made_good(trained, model, corpus, tmp_path, monkeypatch):
    out, replace_file = tmp_path / "clt", os.replace

    def fail(source: Path, target: Path) -> None:
        if Path(target).name == "config.yaml":
            raise KeyboardInterrupt
        replace_file(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        train_clt(model, [corpus], out, OPTIONS)
    monkeypatch.undo()
    assert not (out / "training_report.json").exists()
    train_clt(model, [corpus], out, OPTIONS)
    assert _weights(out) == _weights(trained)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"l0": 5.0}, r"`l0` \(4.0, now 5.0\)"),
        ({"l0": (4.0, 5.0, 4.0)}, r"`l0` \(4.0, now \[4.0, 5.0, 4.0\]\)"),
        ({"seed": 1}, "`seed`"),
    ],
)
def test_other_options_are_refused(trained, model, corpus, change, named):
    with pytest.raises(InputError, match=named):
        train_clt(model, [corpus], trained, replace(OPTIONS, **change))


def test_other_corpus_is_refused_while_unfinished(model, corpus, tmp_path):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    out, other = tmp_path / "clt", tmp_path / "other.txt"
    other.write_text("\n".join(_texts(400)))
    with pytest.raises(KeyboardInterrupt):
        train_clt(model, [corpus], out, OPTIONS, progress=stop)
    with pytest.raises(InputError, match="other corpus files"):
        train_clt(model, [other], out, OPTIONS)


def test_folder_with_other_files_is_refused(model, corpus, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        train_clt(model, [corpus], tmp_path, OPTIONS)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.jsonl",
            b'{"text": "fine"}\n{"text": 1}\n',
            "a.jsonl, line 2 has no string under `text`",
        ),
        ("a.txt", b"\xff", "a.txt, line 1 is not valid UTF-8"),
        ("a.txt", b"too short", "fewer than a batch"),
        ("a.txt", b"", "fewer than a batch"),
    ],
)
def test_corpus_that_cannot_be_used_is_named(model, tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        train_clt(model, [path], tmp_path / "clt", OPTIONS)


def test_missing_corpus_is_named(model, tmp_path):
    with pytest.raises(InputError, match=r"gone\.txt is not a file"):
        train_clt(model, [tmp_path / "gone.txt"], tmp_path / "clt", OPTIONS)
    with pytest.raises(InputError, match="no corpus file"):
        train_clt(model, [], tmp_path / "clt", OPTIONS)


@pytest.mark.parametrize(
    "change",
    [
        {"features": 0},
        {"l0": 0.0},
        {"l0": 25.0},
        {"l0": (4.0, 0.0)},
        {"l0": (4.0, float("nan"))},
        {"window": 1},
        {"learning_rate": 0.0},
    ],
)
def test_options_out_of_range_are_refused(change):
    with pytest.raises(InputError, match=f"`{next(iter(change))}` must be"):
        replace(OPTIONS, **change)


def _windows(model: LanguageModel, corpus: list[Path]) -> Windows:
    return make_windows(
        model.tokenizer,
        FileCorpus(corpus).documents(),
        window=OPTIONS.window,
        slots=OPTIONS.batch * OPTIONS.window,
        steps=OPTIONS.steps,
        heldout=OPTIONS.heldout,
        seed=OPTIONS.seed,
    )
