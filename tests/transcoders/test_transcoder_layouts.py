"""Sets in the layouts of their publishers: activations and reconstructions against plain loops."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import layouts
import numpy as np
import pytest
from refusals import refuses
from safetensors.numpy import load_file, save_file
from test_transcoder_formats import drop, edit, put
from tiny_transcoders import D, F, L, T, random, write_set

from pie_jax.transcoders.config import TopK
from pie_jax.transcoders.formats import orbax
from pie_jax.transcoders.loader import load_transcoder
from pie_jax.transcoders.store import Transcoder

X = random(50, L, T, D)


def jump(pre: np.ndarray, threshold: np.ndarray) -> np.ndarray:
    return np.where(pre > threshold, pre, 0)


def check(transcoder: Transcoder, activations: np.ndarray, written: np.ndarray) -> None:
    module = transcoder.module()
    np.testing.assert_allclose(module.encode(jnp.asarray(X)), activations, atol=1e-5)
    np.testing.assert_allclose(module.reconstruct(jnp.asarray(X)), written, atol=1e-4)


def test_gemma_scope(tmp_path: Path):
    transcoder = load_transcoder(layouts.gemma_scope(tmp_path / "set"), encoders_on_disk=True)
    config = transcoder.config
    assert (config.input_site, config.output_site) == ("ln2_normalized", "after_post_norm")
    assert (config.activation, config.cross_layer) == ("jumprelu", False)
    for layer in range(L):
        # Nothing is read before it is used.
        assert isinstance(transcoder.encoder_arrays[layer].weight.base, np.memmap)
        assert isinstance(transcoder.decoder_maps[layer].base, np.memmap)
    check(transcoder, *layouts.expected(X, jump))


def test_compressed_files_are_converted_once(tmp_path: Path):
    folder = layouts.gemma_scope(tmp_path / "set", packed=True)
    refuses(lambda: load_transcoder(folder), "params.npz", "compressed", "pie-jax convert")
    packed = load_transcoder(folder, encoders_on_disk=True, packed=True)
    orbax.save(packed, tmp_path / "converted")
    converted = load_transcoder(tmp_path / "converted")
    assert converted.config == packed.config
    assert all(isinstance(rows, np.memmap) for rows in converted.decoder_maps)
    check(converted, *layouts.expected(X, jump))


def npz(folder: Path) -> Path:
    return next(folder.glob("layer_1/**/params.npz"))


REFUSED_NPZ: list[tuple[Callable[[Path], object], str]] = [
    (lambda p: p.write_bytes(b"no archive"), "not an .npz"),
    (lambda p: p.write_bytes(p.read_bytes()[:-200]), "not an .npz"),
    (lambda p: p.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "LFS"),
    (lambda p: p.unlink(), "cannot be read"),
    (lambda p: np.savez(p, W_enc=np.zeros((D, F))), "`W_enc` is stored as float64"),
    (lambda p: np.savez(p, other=np.zeros(3, np.float32)), "`other`"),
    (lambda p: np.savez(p, W_enc=np.array([object()])), "`W_enc`"),
    (lambda p: np.savez(p, W_enc=np.zeros((F, D + 1), np.float32)), "`W_enc`"),
]


@pytest.mark.parametrize(("damage", "named"), REFUSED_NPZ)
def test_refused_archives(tmp_path: Path, damage: Callable, named: str):
    folder = layouts.gemma_scope(tmp_path / "set")
    path = npz(folder)
    if "W_enc" in named:
        # The other arrays as they were.
        with np.load(path) as found:
            rest = {name: found[name] for name in found.files if name != "W_enc"}
        damage(path)
        with np.load(path, allow_pickle=True) as found:
            np.savez(path, **rest, W_enc=found["W_enc"])
    else:
        damage(path)
    refuses(lambda: load_transcoder(folder), path, named)


def test_an_archive_of_something_else(tmp_path: Path):
    folder = layouts.gemma_scope(tmp_path / "set")
    with zipfile.ZipFile(npz(folder), "w") as archive:
        archive.writestr("notes.txt", "no numbers")
    refuses(lambda: load_transcoder(folder), npz(folder), "not an .npz")


@pytest.mark.parametrize("skip", [True, False])
def test_gemma_scope_2(tmp_path: Path, skip: bool):
    folder = layouts.gemma_scope_2(tmp_path / "all", "width_16k_l0_small", skip=skip)
    transcoder = load_transcoder(folder)
    config = transcoder.config
    assert (config.input_site, config.output_site) == ("mlp_in", "after_post_norm")
    assert (config.model_name, config.has_skip) == ("tiny", skip)
    check(transcoder, *layouts.expected(X, jump, skip=skip))
    # Several variants in one folder: one is named like its files.
    layouts.gemma_scope_2(folder, "width_262k_l0_big", skip=not skip)
    refuses(lambda: load_transcoder(folder), folder, "width_16k_l0_small", "layer_*_width_16k")
    named = load_transcoder(f"{folder}/layer_*_width_16k_l0_small")
    check(named, *layouts.expected(X, jump, skip=skip))
    assert len(named.files) == 2 * L


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("listed", [True, False])
def test_gemma_scope_2_across_layers(tmp_path: Path, skip: bool, listed: bool):
    """The last layer included, and nothing written to layers before a feature's own."""
    folder = layouts.gemma_scope_2_clt(tmp_path / "clt", skip=skip)
    if not listed:
        (folder / "config.yaml").unlink()
        refuses(lambda: load_transcoder(folder), folder, "config.yaml")
        norms = ("pre_feedforward_layernorm.input", "post_feedforward_layernorm.output")
        hooks = [[f"model.layers.{i}.{norm}" for i in range(L)] for norm in norms]
        raw = {"hf_hook_point_in": hooks[0], "hf_hook_point_out": hooks[1], "model_name": "tiny"}
        (folder / "config.json").write_text(json.dumps(raw))
    transcoder = load_transcoder(folder)
    assert transcoder.config.cross_layer
    assert transcoder.config.input_site == "resid_mid"
    check(transcoder, *layouts.expected(X, jump, skip=skip, cross=True))


def set_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def remove(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


GOOGLE: list[tuple[Callable[[Path], object], str]] = [
    (lambda p: remove(p), "layer 1 is missing"),
    (lambda p: (p / "config.json").write_text("{"), "JSON"),
    (lambda p: set_json(p / "config.json", architecture="topk"), "'topk'"),
    (lambda p: set_json(p / "config.json", hf_hook_point_in="model.layers.1.output"), ".output'"),
    (
        lambda p: set_json(
            p / "config.json", hf_hook_point_in="model.layers.2.pre_feedforward_layernorm.output"
        ),
        "this is layer 1",
    ),
    (lambda p: set_json(p / "config.json", model_name="other"), "hooks or model"),
    (lambda p: drop(p / "params.safetensors", "threshold"), "`threshold`"),
    (lambda p: put(p / "params.safetensors", "w_enc", (F, D)), "`w_enc`"),
    (lambda p: put(p / "params.safetensors", "extra", (F, D)), "`extra`"),
    (lambda p: drop(p / "params.safetensors", "affine_skip_connection"), "skip"),
]


@pytest.mark.parametrize(("damage", "named"), GOOGLE)
def test_refused_folders_of_google(tmp_path: Path, damage: Callable, named: str):
    folder = layouts.gemma_scope_2(tmp_path / "all", "width_16k_l0_small", skip=True)
    damage(folder / "layer_1_width_16k_l0_small")
    refuses(lambda: load_transcoder(folder), folder, named)


@pytest.mark.parametrize("skip", [True, False])
def test_sparsify(tmp_path: Path, skip: bool):
    transcoder = load_transcoder(layouts.sparsify(tmp_path / "set", skip=skip))
    assert transcoder.config.top == TopK(2, relu=True)
    assert transcoder.config.input_site == "mlp_in"
    assert transcoder.config.output_site == "before_post_norm"
    relu = layouts.expected(X, lambda pre, _: layouts.top(np.maximum(pre, 0), 2), skip=skip)
    check(transcoder, *relu)


SPARSIFY = [
    ({"activation": "groupmax"}, "'groupmax'"),
    ({"k": 0}, "`k` is 0"),
    ({"k": "2"}, "`k` is '2'"),
    ({"k": F + 1}, "from 1 to 6"),
    ({"transcode": False}, "autoencoder"),
    ({"skip_connection": False}, "`W_skip`"),
    ({"n_targets": 4}, "`n_targets`"),
    ({"signed": True}, "`signed`"),
    ({"d_in": 5}, "`d_in` is 5"),
    ({"num_latents": 9}, "`num_latents` is 9"),
]


@pytest.mark.parametrize(("config", "named"), SPARSIFY)
def test_refused_settings_of_sparsify(tmp_path: Path, config: dict, named: str):
    folder = layouts.sparsify(tmp_path / "set", **config)
    refuses(lambda: load_transcoder(folder), tmp_path, named)


def test_refused_folders_of_sparsify(tmp_path: Path):
    folder = layouts.sparsify(tmp_path / "set")
    set_json(folder / "layers.1.mlp" / "cfg.json", k=1)
    refuses(lambda: load_transcoder(folder), "layers.1.mlp", "layer 0")
    set_json(folder / "layers.1.mlp" / "cfg.json", k=2)
    put(folder / "layers.1.mlp" / "sae.safetensors", "post_enc", (F,))
    refuses(lambda: load_transcoder(folder), "layers.1.mlp", "`post_enc`")
    (folder / "layers.1.mlp").rename(folder / "layers.1.attention")
    refuses(lambda: load_transcoder(folder), "layers.1.attention", "layers.N.mlp")
    (folder / "layers.1.attention").rename(folder / "layers.5.mlp")
    refuses(lambda: load_transcoder(folder), "layer 1 is missing")


# ---- TopK of circuit-tracer's layout


@pytest.mark.parametrize("where", ["yaml", "tensor", "integer"])
@pytest.mark.parametrize("relu", [True, False])
def test_top_k(tmp_path: Path, where: str, relu: bool):
    said = {"activation": "relu_topk" if relu else "topk"}
    said |= {"k": 2} if where == "yaml" else {}
    folder = write_set(tmp_path / "set", jump=False, **said)
    if where != "yaml":
        kind = np.float32 if where == "tensor" else np.int64
        for path in folder.glob("*.safetensors"):
            edit(path, lambda tensors: tensors.update(k=np.array([2], kind)))
    transcoder = load_transcoder(folder)
    assert transcoder.config.top == TopK(2, relu=relu)

    def activation(pre: np.ndarray, _: np.ndarray) -> np.ndarray:
        return layouts.top(np.maximum(pre, 0) if relu else pre, 2)

    check(transcoder, *layouts.expected(X, activation))
    orbax.save(transcoder, tmp_path / "converted")
    check(load_transcoder(tmp_path / "converted"), *layouts.expected(X, activation))


def test_a_top_k_without_its_k(tmp_path: Path):
    folder = write_set(tmp_path / "set", jump=False, activation="topk")
    refuses(lambda: load_transcoder(folder), folder, "`k: 128`", "config.yaml")
    put(folder / "layer_0.safetensors", "k", (1,), 2.0)
    put(folder / "layer_1.safetensors", "k", (1,), 3.0)
    refuses(lambda: load_transcoder(folder), folder / "layer_1.safetensors", "`k` is 3")
    put(folder / "layer_0.safetensors", "k", (2,), 2.0)
    refuses(lambda: load_transcoder(folder), folder / "layer_0.safetensors", "one number")


def test_skips_of_a_set_are_converted(tmp_path: Path):
    folder = write_set(tmp_path / "set")
    for layer in range(L):
        path = folder / f"layer_{layer}.safetensors"
        tensors = load_file(path) | {"W_skip": random(60 + layer, D, D)}
        path.unlink()
        save_file(tensors, path)
    ours = load_transcoder(folder)
    check(ours, *layouts.expected(X, jump, skip=True))
    orbax.save(ours, tmp_path / "converted")
    check(load_transcoder(tmp_path / "converted"), *layouts.expected(X, jump, skip=True))
