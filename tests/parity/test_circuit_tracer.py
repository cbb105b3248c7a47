"""circuit-tracer's own loader opens what save_transcoder writes, and computes the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra `parity`: pip install 'pie-jax[parity]'")
pytest.importorskip("circuit_tracer", reason="needs the extra `parity`")

import jax.numpy as jnp
import torch
from circuit_tracer.transcoder.activation_functions import TopK
from circuit_tracer.transcoder.cross_layer_transcoder import (
    CrossLayerTranscoder,
    load_clt,
    load_gemma_scope_2_clt,
)
from circuit_tracer.transcoder.single_layer_transcoder import load_transcoder_set
from layouts import gemma_scope, gemma_scope_2, gemma_scope_2_clt
from safetensors.numpy import load_file, save_file
from tiny_transcoders import D, F, L, T, random, random_clt, write_set

from pie_jax.files.hub import resolve_folder
from pie_jax.transcoders.formats import transcoder_set
from pie_jax.transcoders.formats.circuit_tracer import save_transcoder
from pie_jax.transcoders.loader import load_transcoder
from pie_jax.transcoders.store import Transcoder

pytestmark = pytest.mark.parity
# float32 on both sides, in units of the largest value.
TOLERANCE = 1e-5
CPU = torch.device("cpu")


def open_theirs(folder: Path, lazy: bool) -> CrossLayerTranscoder:
    return load_clt(
        str(folder), device=CPU, dtype=torch.float32, lazy_decoder=lazy, lazy_encoder=lazy
    )


def assert_same(ours: np.ndarray, theirs: torch.Tensor) -> None:
    expected = theirs.detach().numpy()
    assert ours.shape == expected.shape
    assert np.abs(np.asarray(ours) - expected).max() <= TOLERANCE * np.abs(expected).max()


def compare(ours: Transcoder, folder: Path, x: np.ndarray) -> None:
    """Compare activations and reconstructions on x [L, T, D], eager and lazy."""
    module = ours.module()
    for lazy in (False, True):
        theirs = open_theirs(folder, lazy)
        # Their activation function broadcasts a batch of layers.
        encoded = torch.stack(
            [theirs.encode_layer(torch.from_numpy(x[i]), i) for i in range(len(x))]
        )
        assert_same(module.encode(jnp.asarray(x)), encoded)
        components = theirs.compute_attribution_components(torch.from_numpy(x))
        assert_same(module.reconstruct(jnp.asarray(x)), components["reconstruction"])


@pytest.mark.parametrize("activation", ["relu", "jumprelu"])
def test_saved_transcoders(activation: str, tmp_path: Path):
    save_transcoder(random_clt(activation), tmp_path)
    compare(load_transcoder(tmp_path), tmp_path, random(50, L, T, D))


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_reference_transcoders(family: str, reference: Callable):
    found = reference(family)
    compare(found.transcoder, found.folder / "clt", found["0/resid_mid"])


def test_the_demo_transcoder():
    folder = resolve_folder("demo", demo="clt", patterns=[], what="transcoder")
    if not folder.is_dir():
        pytest.skip("the demo has not been made in this checkout: pie_jax/demo/clt")
    ours = load_transcoder("demo")
    compare(ours, folder, random(50, ours.config.num_layers, 9, ours.config.d_model))


@pytest.mark.parametrize("jump", [True, False])
def test_their_transcoder_sets(jump: bool, tmp_path: Path):
    """They open the folders that the tests write, and compute what pie_jax computes."""
    folder = write_set(tmp_path / "set", jump=jump)
    paths = {layer: str(folder / f"layer_{layer}.safetensors") for layer in range(L)}
    theirs = load_transcoder_set(
        paths, "scan", "mlp.hook_in", "hook_mlp_out", device=CPU, dtype=torch.float32
    )
    module = load_transcoder(folder).module()
    x = random(50, L, T, D)
    assert_same(module.encode(jnp.asarray(x)), theirs.encode(torch.from_numpy(x)))
    components = theirs.compute_attribution_components(torch.from_numpy(x))
    assert_same(module.reconstruct(jnp.asarray(x)), components["reconstruction"])
    # And what they write is read.
    theirs.to_safetensors(str(tmp_path / "theirs"))
    (tmp_path / "theirs" / "config.yaml").write_text((folder / "config.yaml").read_text())
    again = load_transcoder(tmp_path / "theirs").module()
    np.testing.assert_array_equal(
        again.reconstruct(jnp.asarray(x)), module.reconstruct(jnp.asarray(x))
    )


@pytest.mark.parametrize("activation", ["relu", "jumprelu"])
def test_what_they_write(activation: str, tmp_path: Path):
    """`to_safetensors` of a transcoder of theirs is read, tensor by tensor."""
    save_transcoder(random_clt(activation), tmp_path / "ours")
    open_theirs(tmp_path / "ours", lazy=False).to_safetensors(str(tmp_path / "theirs"))
    (tmp_path / "theirs" / "config.yaml").write_bytes(
        (tmp_path / "ours" / "config.yaml").read_bytes()
    )
    ours, theirs = load_transcoder(tmp_path / "ours"), load_transcoder(tmp_path / "theirs")
    assert ours.config == theirs.config
    for layer in range(L):
        np.testing.assert_array_equal(
            ours.rows(layer, np.arange(F)), theirs.rows(layer, np.arange(F))
        )
        for one, other in zip(
            ours.encoder_arrays[layer], theirs.encoder_arrays[layer], strict=True
        ):
            assert (one is None) == (other is None)
            if one is not None:
                np.testing.assert_array_equal(one, other)


def compare_sets(folder: Path, paths: dict[int, str], special: str | None, k: int | None = None):
    """Compare activations and reconstructions of a set of theirs and ours, as `folder` opens."""
    lazy = {"lazy_encoder": False, "lazy_decoder": False}
    theirs = load_transcoder_set(
        paths,
        "scan",
        "mlp.hook_in",
        "hook_mlp_out",
        device=CPU,
        dtype=torch.float32,
        special_load_fn=special,
        **lazy,
    )
    for one in theirs if k is not None else ():
        one.activation_function = TopK(k)
    module = load_transcoder(folder).module()
    x = random(50, L, T, D)
    assert_same(module.encode(jnp.asarray(x)), theirs.encode(torch.from_numpy(x)))
    components = theirs.compute_attribution_components(torch.from_numpy(x))
    assert_same(module.reconstruct(jnp.asarray(x)), components["reconstruction"])


def test_gemma_scope(tmp_path: Path):
    folder = gemma_scope(tmp_path / "set")
    paths = {
        layer: str(folder / f"layer_{layer}/width_16k/average_l0_5/params.npz")
        for layer in range(L)
    }
    compare_sets(folder, paths, "gemma-scope")


@pytest.mark.parametrize("skip", [True, False])
def test_gemma_scope_2(skip: bool, tmp_path: Path):
    folder = gemma_scope_2(tmp_path / "all", "width_16k_l0_small", skip=skip)
    paths = {
        layer: str(folder / f"layer_{layer}_width_16k_l0_small" / "params.safetensors")
        for layer in range(L)
    }
    compare_sets(folder, paths, "gemma-scope-2")


@pytest.mark.parametrize("skip", [True, False])
def test_gemma_scope_2_across_layers(skip: bool, tmp_path: Path):
    """Their loader leaves out the last path it is given: one that is not there."""
    folder = gemma_scope_2_clt(tmp_path / "clt", skip=skip)
    paths = {layer: str(folder / f"params_layer_{layer}.safetensors") for layer in range(L)}
    theirs = load_gemma_scope_2_clt({**paths, L: "none"}, device=CPU, dtype=torch.float32)
    module = load_transcoder(folder).module()
    x = random(50, L, T, D)
    assert_same(module.encode(jnp.asarray(x)), theirs.encode(torch.from_numpy(x)))
    components = theirs.compute_attribution_components(torch.from_numpy(x))
    assert_same(module.reconstruct(jnp.asarray(x)), components["reconstruction"])


@pytest.mark.parametrize("k", [None, 2])
def test_skips_and_top_k(k: int | None, tmp_path: Path):
    said = {} if k is None else {"activation": "topk", "k": k}
    folder = write_set(tmp_path / "set", jump=False, **said)
    for layer in range(L):
        path = folder / f"layer_{layer}.safetensors"
        tensors = load_file(path)
        path.unlink()
        save_file(tensors | {"W_skip": random(60 + layer, D, D)}, path)
    paths = {layer: str(folder / f"layer_{layer}.safetensors") for layer in range(L)}
    compare_sets(folder, paths, None, k)


@pytest.mark.parametrize("jump", [True, False])
def test_saved_sets(jump: bool, tmp_path: Path):
    """What training per layer writes, with a skip."""
    folder = write_set(tmp_path / "set", jump=jump)
    for layer in range(L):
        path = folder / f"layer_{layer}.safetensors"
        tensors = load_file(path)
        save_file(tensors | {"W_skip": random(60 + layer, D, D)}, path)
    saved = tmp_path / "saved"
    transcoder_set.save_transcoder(load_transcoder(folder).module(), saved)
    compare_sets(saved, {i: str(saved / f"layer_{i}.safetensors") for i in range(L)}, None)
