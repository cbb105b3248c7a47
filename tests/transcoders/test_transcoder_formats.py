"""Transcoder folders: both layouts, exact round trips, and what is refused by name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import yaml
from refusals import refuses
from safetensors.numpy import load_file, save_file
from tiny_transcoders import THRESHOLD, D, F, L, T, random, random_clt, write_set

from pie_jax.models.config import PRESETS
from pie_jax.transcoders.config import TranscoderConfig
from pie_jax.transcoders.formats import FORMATS
from pie_jax.transcoders.formats.circuit_tracer import save_transcoder
from pie_jax.transcoders.loader import load_transcoder, require_match
from pie_jax.transcoders.modules import CrossLayerTranscoder, Encoder, active_mask, zero_bos


def edit(path: Path, change: Callable[[dict], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    path.unlink()
    save_file(tensors, path)


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))


@pytest.fixture(params=["relu", "jumprelu"])
def clt(request: pytest.FixtureRequest) -> CrossLayerTranscoder:
    return random_clt(request.param)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_transcoder(random_clt("jumprelu"), tmp_path / "clt")
    return tmp_path / "clt"


# ---- cross-layer transcoders


def test_save_and_load(clt: CrossLayerTranscoder, tmp_path: Path):
    save_transcoder(clt, tmp_path / "clt", scan="a-scan")
    again = load_transcoder(tmp_path / "clt")
    assert again.config == clt.config
    assert again.name == str(tmp_path / "clt")
    assert yaml.safe_load((tmp_path / "clt" / "config.yaml").read_text())["scan"] == "a-scan"
    module = again.module()
    for ours, theirs in zip(module.encoders, clt.encoders, strict=True):
        np.testing.assert_array_equal(ours.weight[...], theirs.weight[...])
        np.testing.assert_array_equal(ours.bias[...], theirs.bias[...])
        if theirs.threshold is None:
            assert ours.threshold is None
        else:
            np.testing.assert_array_equal(ours.threshold[...], theirs.threshold[...])
    for ours, theirs in zip(module.decoders, clt.decoders, strict=True):
        np.testing.assert_array_equal(ours[...], theirs[...])
    np.testing.assert_array_equal(module.bias[...], clt.bias[...])
    x = jnp.asarray(random(50, L, T, D))
    np.testing.assert_array_equal(module.reconstruct(x), clt.reconstruct(x))


def test_files_are_the_ones_read(folder: Path):
    assert {path.name for path in load_transcoder(folder).files} == {
        "config.yaml",
        *(f"W_{which}_{layer}.safetensors" for which in ("enc", "dec") for layer in range(L)),
    }


def test_encoders_keep_the_files_dtype_unless_told(folder: Path):
    for path in folder.glob("*.safetensors"):
        edit(path, lambda t: t.update({k: v.astype(ml_dtypes.bfloat16) for k, v in t.items()}))
    as_stored = load_transcoder(folder)
    assert as_stored.encoder(0).weight[...].dtype == jnp.bfloat16
    assert as_stored.rows(0, np.array([1])).dtype == ml_dtypes.bfloat16
    wide = load_transcoder(folder, dtype="float32")
    assert wide.encoder(0).weight[...].dtype == jnp.float32
    np.testing.assert_array_equal(wide.encoder(0).weight[...], as_stored.encoder(0).weight[...])
    refuses(lambda: load_transcoder(folder, dtype="int8"), "`int8`")


def test_encode_and_decode_feature_by_feature(clt: CrossLayerTranscoder):
    """Loops over positions, layers and features, in float64."""
    x = random(50, L, T, D)
    activations = np.zeros((L, T, F))
    for layer, encoder in enumerate(clt.encoders):
        for t in range(T):
            for f in range(F):
                pre = encoder.weight[...][f] @ x[layer, t] + encoder.bias[...][f]
                cut = 0.0 if encoder.threshold is None else float(encoder.threshold[...][f])
                activations[layer, t, f] = pre if pre > cut else 0.0
    expected = np.repeat(np.asarray(clt.bias[...])[:, None], T, axis=1).astype(np.float64)
    for layer in range(L):
        for t in range(1, T):  # BOS is zeroed
            for f in range(F):
                for target in range(layer, L):
                    row = np.asarray(clt.decoders[layer][...])[f, target - layer]
                    expected[target, t] += activations[layer, t, f] * row
    assert 0 < np.count_nonzero(activations) < activations.size
    np.testing.assert_allclose(clt.encode(jnp.asarray(x)), activations, atol=1e-5)
    np.testing.assert_allclose(clt.reconstruct(jnp.asarray(x)), expected, atol=1e-5)


def test_positions_that_hold_no_occurrence():
    assert active_mask(jnp.asarray(3), T).tolist() == [False, True, True, False, False]
    zeroed = zero_bos(jnp.ones((L, T, F)))
    assert not zeroed[:, 0].any()
    assert zeroed[:, 1:].all()


def test_a_threshold_is_not_reached_by_equality():
    encoder = Encoder(jnp.eye(2), jnp.zeros(2), jnp.asarray([1.0, 1.0]))
    assert encoder(jnp.asarray([[1.0, 1.5]])).tolist() == [[0.0, 1.5]]


# ---- sets of per-layer transcoders


@pytest.mark.parametrize("jump", [True, False])
def test_transcoder_set(tmp_path: Path, jump: bool):
    transcoder = load_transcoder(write_set(tmp_path / "set", jump=jump))
    config = transcoder.config
    assert (config.num_layers, config.d_model, config.features) == (L, D, F)
    assert config.activation == ("jumprelu" if jump else "relu")
    assert config.input_site == "mlp_in"
    assert not config.cross_layer
    assert [config.targets(layer) for layer in range(L)] == [1, 1, 1]
    features = np.array([4, 0, 4])
    x = random(50, T, D)
    for layer in range(L):
        rows = transcoder.rows(layer, features)
        assert rows.shape == (3, 1, D)
        np.testing.assert_array_equal(rows[:, 0], random(30 + layer, F, D)[features])
        pre = x @ random(10 + layer, F, D).T + random(20 + layer, F)
        cut = abs(random(layer, F)) if jump else 0
        expected = np.where(pre > cut, pre, 0)
        np.testing.assert_allclose(transcoder.encoder(layer)(jnp.asarray(x)), expected, atol=1e-5)


def test_a_set_writes_to_its_own_layers(tmp_path: Path):
    module = load_transcoder(write_set(tmp_path / "set")).module()
    for layer in range(L):
        activations = np.zeros((L, T, F), np.float32)
        activations[layer, 2, 3] = 2.0
        written = np.array(module.decode(jnp.asarray(activations)) - module.bias[...][:, None])
        row = random(30 + layer, F, D)[3]
        np.testing.assert_allclose(written[layer, 2], 2 * row, atol=1e-6)
        written[layer, 2] = 0
        np.testing.assert_allclose(written, 0, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, F), (1, 1, F), (1,)])
def test_a_set_may_store_thresholds_with_more_axes(tmp_path: Path, shape: tuple[int, ...]):
    folder = write_set(tmp_path / "set")
    values = np.linspace(0.1, 1, int(np.prod(shape)), dtype=np.float32)
    for path in folder.glob("*.safetensors"):
        edit(path, lambda t: t.update({THRESHOLD: values.reshape(shape)}))
    found = load_transcoder(folder).encoder(1).threshold[...]
    np.testing.assert_array_equal(found, np.broadcast_to(values, F))


def test_a_set_may_list_its_files(tmp_path: Path):
    folder = write_set(tmp_path / "set")
    names = [f"layer_{layer}.safetensors" for layer in reversed(range(L))]
    edit_config(folder, transcoders=names)
    transcoder = load_transcoder(folder)
    np.testing.assert_array_equal(transcoder.rows(0, np.arange(F))[:, 0], random(32, F, D))


def test_an_activation_without_its_thresholds_is_refused(tmp_path: Path):
    plain = write_set(tmp_path / "plain", jump=False, activation="relu")
    assert load_transcoder(plain).config.activation == "relu"
    assert load_transcoder(write_set(tmp_path / "a", activation="jumprelu")).config.features == F
    edit_config(plain, activation="jumprelu")
    refuses(lambda: load_transcoder(plain), plain / "layer_0.safetensors", "'jumprelu'")


def test_stray_copies_are_no_layers(folder: Path, tmp_path: Path):
    shutil.copy(folder / "W_enc_0.safetensors", folder / "W_enc_0 (1).safetensors")
    assert load_transcoder(folder).config.num_layers == L
    layers = write_set(tmp_path / "set")
    shutil.copy(layers / "layer_0.safetensors", layers / "layer_0.bak.safetensors")
    assert load_transcoder(layers).config.num_layers == L


REFUSED_SETS = [
    (lambda f: edit_config(f, transcoders=["s3://a/b/c.npz"]), "config.yaml", "s3://a/b/c.npz"),
    (lambda f: edit_config(f, transcoders=["hf://a/b"]), "config.yaml", "hf://a/b"),
    (lambda f: edit_config(f, transcoders="layer_0"), "config.yaml", "`transcoders`"),
    (lambda f: edit_config(f, transcoders=[]), "", "layer_0.safetensors"),
    (lambda f: edit_config(f, transcoders=["no.safetensors"]), "no.safetensors", "cannot be read"),
    (lambda f: [path.unlink() for path in f.glob("layer*")], "", "layer_0.safetensors"),
    (lambda f: (f / "layer_1.safetensors").unlink(), "layer_1.safetensors", "missing"),
    (lambda f: edit_config(f, activation="topk", k=2), "layer_0.safetensors", "'topk'"),
    (lambda f: edit_config(f, activation="batchtopk"), "config.yaml", "'batchtopk'"),
    (lambda f: edit_config(f, k=2), "config.yaml", "`k` is 2"),
    (lambda f: edit_config(f, activation="topk", k="2"), "config.yaml", "`k` is '2'"),
    (lambda f: put(f / "layer_1.safetensors", "extra", (1,)), "layer_1.safetensors", "`extra`"),
    (lambda f: put(f / "layer_1.safetensors", "W_skip", (D, D)), "layer_1.safetensors", "skip"),
    (lambda f: drop(f / "layer_1.safetensors", THRESHOLD), "layer_1.safetensors", THRESHOLD),
    (lambda f: drop(f / "layer_0.safetensors", THRESHOLD), "layer_1.safetensors", THRESHOLD),
    (lambda f: drop(f / "layer_1.safetensors", "W_dec"), "layer_1.safetensors", "`W_dec`"),
    (lambda f: put(f / "layer_1.safetensors", "k", (1,)), "layer_1.safetensors", "`k`"),
    (lambda f: put(f / "layer_2.safetensors", "W_dec", (D, F)), "layer_2.safetensors", "`W_dec`"),
    (lambda f: put(f / "layer_0.safetensors", "W_enc", (F,)), "layer_0.safetensors", "[F, D]"),
    (lambda f: put(f / "layer_1.safetensors", THRESHOLD, (2,)), "layer_1.safetensors", THRESHOLD),
]


def drop(path: Path, name: str) -> None:
    edit(path, lambda tensors: tensors.pop(name))


def put(path: Path, name: str, shape: tuple[int, ...], value: float = 1.0) -> None:
    edit(path, lambda tensors: tensors.update({name: np.full(shape, value, np.float32)}))


@pytest.mark.parametrize(("damage", "file", "named"), REFUSED_SETS)
def test_refused_sets(tmp_path: Path, damage: Callable, file: str, named: str):
    folder = write_set(tmp_path / "set")
    damage(folder)
    refuses(lambda: load_transcoder(folder), folder / file, named)


# ---- what is refused in a cross-layer transcoder


def spoil(path: Path, name: str, index: tuple[int, ...]) -> None:
    def change(tensors: dict) -> None:
        tensors[name][index] = np.nan

    edit(path, change)


ENC, DEC = "W_enc_1.safetensors", "W_dec_1.safetensors"
REFUSED = [
    # The config.
    (lambda f: (f / "config.yaml").unlink(), "", "not a transcoder folder"),
    (lambda f: (f / "config.yaml").write_text("- a"), "config.yaml", "mapping"),
    (lambda f: (f / "config.yaml").write_text("a: [b"), "config.yaml", "YAML"),
    (lambda f: (f / "config.yaml").write_bytes(b"\xff\xfe\xff"), "config.yaml", "YAML"),
    (lambda f: edit_config(f, model_kind="sae"), "", "'sae'"),
    (lambda f: edit_config(f, model_kind=None), "", "model_kind"),
    (lambda f: edit_config(f, model_kind=["x"]), "", "model_kind"),
    (
        lambda f: edit_config(f, feature_input_hook="hook_resid_pre"),
        "config.yaml",
        "hook_resid_pre",
    ),
    (lambda f: edit_config(f, feature_input_hook=None), "config.yaml", "feature_input_hook"),
    (lambda f: edit_config(f, feature_input_hook=["a"]), "config.yaml", "feature_input_hook"),
    (lambda f: edit_config(f, feature_output_hook="hook_out"), "config.yaml", "hook_out"),
    # The files.
    (lambda f: [path.unlink() for path in f.glob("*.safetensors")], "", "W_enc_0.safetensors"),
    (lambda f: edit_config(f, activation="batchtopk"), "config.yaml", "'batchtopk'"),
    (lambda f: (f / ENC).unlink(), ENC, "missing"),
    (lambda f: (f / DEC).unlink(), DEC, "cannot be read"),
    (lambda f: (f / "W_enc_2.safetensors").unlink(), "W_enc_2.safetensors", "missing"),
    (lambda f: (f / ENC).write_bytes((f / ENC).read_bytes()[:-8]), ENC, "truncated"),
    (lambda f: (f / DEC).write_bytes((f / DEC).read_bytes()[:30]), DEC, "not a safetensors file"),
    # The tensors.
    (lambda f: drop(f / ENC, "threshold_1"), ENC, "`threshold_1`"),
    (lambda f: drop(f / "W_enc_0.safetensors", "threshold_0"), ENC, "`threshold_1`"),
    (lambda f: drop(f / ENC, "W_enc_1"), ENC, "`W_enc_1`"),
    (lambda f: drop(f / ENC, "b_enc_1"), ENC, "`b_enc_1`"),
    (lambda f: drop(f / ENC, "b_dec_1"), ENC, "`b_dec_1`"),
    (lambda f: drop(f / DEC, "W_dec_1"), DEC, "`W_dec_1`"),
    (lambda f: put(f / ENC, "W_enc_1", (F, D + 1)), ENC, "`W_enc_1`"),
    (lambda f: put(f / ENC, "b_enc_1", (F, 1)), ENC, "`b_enc_1`"),
    (lambda f: put(f / ENC, "threshold_1", (1,)), ENC, "`threshold_1`"),
    (lambda f: put(f / DEC, "W_dec_1", (F, L, D)), DEC, "`W_dec_1`"),
    (lambda f: put(f / "W_enc_0.safetensors", "W_enc_0", (F,)), "W_enc_0.safetensors", "[F, D]"),
    (lambda f: spoil(f / ENC, "W_enc_1", (5, 3)), "", "encoder 1 (weight)"),
    (lambda f: spoil(f / ENC, "b_enc_1", (5,)), "", "encoder 1 (bias)"),
    (lambda f: spoil(f / ENC, "threshold_1", (5,)), "", "encoder 1 (threshold)"),
    (lambda f: spoil(f / ENC, "b_dec_1", (3,)), "", "decoder bias"),
]


@pytest.mark.parametrize(("damage", "file", "named"), REFUSED)
def test_refused_folders(folder: Path, damage: Callable, file: str, named: str):
    load_transcoder(folder)
    damage(folder)
    refuses(lambda: load_transcoder(folder), folder / file if file else folder, named)


def test_int8_decoder(folder: Path):
    edit(folder / DEC, lambda t: t.update({"W_dec_1": t["W_dec_1"].astype(np.int8)}))
    refuses(lambda: load_transcoder(folder), folder / DEC, "`W_dec_1`", "I8")


def test_nan_in_a_decoder_row_is_found_when_the_row_is_read(folder: Path):
    spoil(folder / DEC, "W_dec_1", (4, 1, 2))
    transcoder = load_transcoder(folder)
    transcoder.rows(1, np.array([0, 1, 2, 3, 5]))
    refuses(lambda: transcoder.rows(1, np.array([4])), folder, "decoder of layer 1")
    refuses(transcoder.module, folder, "decoder of layer 1")


def test_nan_in_an_encoder_on_disk_is_found_when_it_is_read(folder: Path):
    spoil(folder / ENC, "W_enc_1", (4, 1))
    transcoder = load_transcoder(folder, encoders_on_disk=True)
    transcoder.encoder(0)
    refuses(lambda: transcoder.encoder(1), folder, "encoder 1")


def test_affine_skips(folder: Path):
    put(folder / ENC, "W_skip_1", (D, D))
    refuses(lambda: load_transcoder(folder), folder / ENC, "`W_skip_1`")
    plain = random_clt("jumprelu")
    skips = [random(60 + layer, D, D) for layer in range(L)]
    for layer, skip in enumerate(skips):
        path = folder / f"W_enc_{layer}.safetensors"
        edit(path, lambda tensors, i=layer, s=skip: tensors.update({f"W_skip_{i}": s}))
    transcoder = load_transcoder(folder)
    assert transcoder.config.has_skip
    x = random(50, L, T, D)
    # Stored (in, out); at BOS too.
    expected = np.asarray(plain.reconstruct(jnp.asarray(x))) + np.einsum("ltd,lde->lte", x, skips)
    ours = transcoder.module().reconstruct(jnp.asarray(x))
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_unknown_layouts_name_the_known_ones(tmp_path: Path):
    for reader in FORMATS.values():
        refuses(lambda: load_transcoder(tmp_path), tmp_path, reader.layout)
    refuses(lambda: load_transcoder(tmp_path / "no"), f"transcoder `{tmp_path / 'no'}`")


def test_model_and_transcoder_must_match(folder: Path, reference: Callable):
    llama, gemma = reference("llama"), reference("gemma2")
    require_match(llama.transcoder, llama.model.config, "llama")
    transcoder = load_transcoder(folder)
    refuses(lambda: require_match(transcoder, llama.model.config, "tiny"), folder, "tiny", "64")
    more = replace(llama.model.config, num_layers=5)
    refuses(lambda: require_match(llama.transcoder, more, "llama"), "layer 4", "missing")
    # The output before a post-norm is another place, but only where there is one.
    before = replace(llama.transcoder.config, output_site="before_post_norm")
    moved = replace(llama.transcoder, config=before)
    require_match(moved, llama.model.config, "llama")
    refuses(lambda: require_match(moved, gemma.model.config, "gemma"), "mlp.hook_out", "gemma")


def test_targets():
    clt = TranscoderConfig(16, 2048, 32768, "relu")
    assert [clt.targets(layer) for layer in (0, 7, 15)] == [16, 9, 1]
    assert PRESETS["llama-3.2-1b"].num_layers == clt.num_layers
