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
from circuit_tracer.transcoder.cross_layer_transcoder import CrossLayerTranscoder, load_clt
from circuit_tracer.transcoder.single_layer_transcoder import load_transcoder_set
from tiny_transcoders import D, F, L, T, random, random_clt, write_set

from pie_jax.hub import resolve_folder
from pie_jax.transcoders.formats.circuit_tracer import save_transcoder
from pie_jax.transcoders.loader import load_transcoder
from pie_jax.transcoders.stored import Transcoder

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
