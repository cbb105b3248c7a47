"""Orbax folders: equal arrays on any mesh, equal results, nothing half done that looks whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cli_helpers import pie
from mesh_helpers import same_results, shard_shares
from refusals import refuses
from safetensors.numpy import load_file

import pie_jax
from pie_jax.devices.mesh import fetch, mesh_of
from pie_jax.files import orbax_checkpoint as checkpoint
from pie_jax.files.tensor_reader import TensorFile
from pie_jax.files.tensor_writer import write_tensors
from pie_jax.models.loader import LanguageModel
from pie_jax.prune.results.tables import PruneResult
from pie_jax.transcoders.formats import orbax
from pie_jax.transcoders.store import Transcoder

MESHES = ("data=4,model=2", "model=8")


@dataclass
class Converted:
    """A converted folder with what it was made from, loaded for data=8."""

    folder: Path
    model: LanguageModel
    transcoder: Transcoder
    pairs: Path
    single: PruneResult


def prune(
    model: LanguageModel, transcoder: Transcoder, pairs: Path, out: Path | None = None
) -> PruneResult:
    rows = pie_jax.load_pairs(pairs)
    return pie_jax.prune(model, transcoder, rows, methods=("fap",), budgets=(4, 8), out=out)


@pytest.fixture(scope="module")
def converted(reference: Callable, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    ours = reference("llama")
    mesh = pie_jax.make_mesh("data=8")
    model = pie_jax.load_model(ours.folder / "model", mesh=mesh)
    clt = pie_jax.load_transcoder(ours.folder / "clt", encoders_on_disk=True, mesh=mesh)
    out = tmp_path_factory.mktemp("converted") / "out"
    pie_jax.convert(model, clt, out)
    pairs = ours.folder / "prompts.jsonl"
    single = prune(ours.model, ours.transcoder, pairs)
    return Converted(out, ours.model, ours.transcoder, pairs, single)


def equal(found: Any, expected: Any, dtype: Any = None) -> None:
    """Check that two trees hold the same numbers, wherever they are."""
    leaves = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    for leaf, whole in leaves:
        np.testing.assert_array_equal(fetch(leaf), np.asarray(jnp.asarray(whole, dtype)))


@pytest.mark.slow
@pytest.mark.parametrize("axes", MESHES)
def test_what_was_saved_from_one_mesh_is_restored_on_another(converted: Converted, axes: str):
    mesh = pie_jax.make_mesh(axes)
    model = pie_jax.load_model(converted.folder / "model", mesh=mesh)
    clt = pie_jax.load_transcoder(converted.folder / "transcoder", mesh=mesh)
    equal(model.transformer, converted.model.transformer)
    equal(clt.resident, converted.transcoder.resident)
    assert mesh_of(model.transformer.blocks.mlp.gate[...]) == mesh
    assert shard_shares(model.transformer.blocks.mlp.gate[...]) == {1 / mesh.shape["model"]}
    assert shard_shares(clt.encoder(0).weight[...]) == {1 / mesh.shape["model"]}
    same_results(prune(model, clt, converted.pairs), converted.single)


@pytest.mark.slow
def test_it_is_read_without_a_mesh(converted: Converted):
    model = pie_jax.load_model(converted.folder / "model")
    on_disk = pie_jax.load_transcoder(converted.folder / "transcoder", encoders_on_disk=True)
    equal(model.transformer, converted.model.transformer)
    assert model.tokenizer.encode("When Anna") == converted.model.tokenizer.encode("When Anna")
    ours = converted.transcoder
    assert on_disk.config == ours.config
    np.testing.assert_array_equal(on_disk.bias, ours.bias)
    assert len(on_disk.encoder_arrays) == ours.config.num_layers
    for layer, arrays in enumerate(ours.encoder_arrays):
        for found, expected in zip(on_disk.encoder_arrays[layer], arrays, strict=True):
            np.testing.assert_array_equal(found, expected)
        features = np.array([5, 0, 3])
        rows = on_disk.rows(layer, features)
        np.testing.assert_array_equal(rows, ours.rows(layer, features))
    same_results(prune(model, on_disk, converted.pairs), converted.single)


def test_rows_are_memory_maps(converted: Converted):
    clt = pie_jax.load_transcoder(converted.folder / "transcoder", encoders_on_disk=True)
    assert all(isinstance(rows, np.memmap) for rows in clt.decoder_maps)


def test_the_record_of_a_run_knows_the_weights(converted: Converted, tmp_path: Path):
    """A folder's hash changes with any weight, although only its manifest is hashed."""
    model = pie_jax.load_model(converted.folder / "model")
    clt = pie_jax.load_transcoder(converted.folder / "transcoder")
    config = prune(model, clt, converted.pairs, tmp_path / "run").record["config"]
    assert "pie_jax.json" in config["sha256"]["model"]
    assert set(config["sha256"]["transcoder"]) == {"pie_jax.json"}
    rows = [np.array(decoder) for decoder in converted.transcoder.decoder_maps]
    rows[-1][-1, -1, -1] += 1
    other = replace(converted.transcoder, decoder_maps=rows)
    orbax.save(other, tmp_path / "other")
    digests = [
        json.loads((folder / "pie_jax.json").read_text())["sha256"]
        for folder in (tmp_path / "other", converted.folder / "transcoder")
    ]
    last = f"rows_{len(rows) - 1}.safetensors"
    assert {name for name in digests[0] if digests[0][name] != digests[1][name]} == {last}


def test_another_dtype_by_command(monkeypatch, reference: Callable, tmp_path: Path, capsys):
    ours = reference("gemma2")
    out = tmp_path / "a" / "out"
    names = ("--model", ours.folder / "model", "--transcoder", ours.folder / "clt")
    command = ["convert", *names, "--dtype", "bfloat16", "--out", out]
    assert pie(monkeypatch, *command) == 0
    assert str(out) in capsys.readouterr().out.replace("\n", "")
    model = pie_jax.load_model(out / "model", "bfloat16")
    clt = pie_jax.load_transcoder(out / "transcoder")
    equal(model.transformer, ours.model.transformer, jnp.bfloat16)
    equal(clt.resident, ours.transcoder.resident, jnp.bfloat16)
    assert clt.decoder_maps[0].dtype == jnp.bfloat16
    assert model.transformer.embedding.dtype == jnp.bfloat16
    # Wider when it is read wider, but with the digits that were kept.
    wide = pie_jax.load_model(out / "model")
    assert wide.transformer.embedding.dtype == jnp.float32
    equal(wide.transformer.embedding, np.asarray(model.transformer.embedding[...]), jnp.float32)
    assert pie(monkeypatch, *command) == 2
    assert "is there already" in capsys.readouterr().err.replace("\n", " ")
    assert pie(monkeypatch, *command[:-1], tmp_path / "b", "--dtype", "int8") == 2
    assert not (tmp_path / "b").exists()


def test_the_set_format_is_converted_too(tmp_path: Path):
    from tiny_transcoders import write_set

    source = pie_jax.load_transcoder(write_set(tmp_path / "set"))
    orbax.save(source, tmp_path / "out")
    found = pie_jax.load_transcoder(tmp_path / "out")
    assert found.config == source.config
    equal(found.resident, source.resident)
    for ours, theirs in zip(found.decoder_maps, source.decoder_maps, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("layer", [0, 1])
def test_an_interrupted_conversion_leaves_nothing_that_looks_whole(
    converted: Converted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layer: int
):
    out = tmp_path / "out"

    def stop(path: Path, *rest: Any) -> str:
        if path.name == f"rows_{layer}.safetensors":
            raise KeyboardInterrupt
        return write_tensors(path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(orbax, "write_tensors", stop)
        with pytest.raises(KeyboardInterrupt):
            pie_jax.convert(converted.model, converted.transcoder, out)
    assert not out.exists()
    (partial,) = tmp_path.iterdir()
    assert partial.name == ".out.partial"
    refuses(lambda: pie_jax.load_transcoder(partial / "transcoder"), "known format")
    pie_jax.convert(converted.model, converted.transcoder, out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    equal(pie_jax.load_transcoder(out / "transcoder").resident, converted.transcoder.resident)


# Broken folders


def test_broken_manifests_are_refused(converted: Converted, copied: Callable, tmp_path: Path):
    folder = tmp_path / "broken"
    folder.mkdir()
    path = folder / "pie_jax.json"
    for text in ("{", "[]", "\xff"):
        path.write_text(text, encoding="latin-1")
        refuses(lambda: pie_jax.load_transcoder(folder), path)
    whole = json.loads((converted.folder / "transcoder" / "pie_jax.json").read_text())
    path.write_text(json.dumps({**whole, "version": 2}))
    refuses(lambda: pie_jax.load_transcoder(folder), path, "version 2")
    for key in ("config", "dtypes"):
        path.write_text(json.dumps({name: whole[name] for name in whole if name != key}))
        refuses(lambda: pie_jax.load_transcoder(folder), path)
    # Whole, but without its files.
    path.write_text(json.dumps(whole))
    refuses(lambda: pie_jax.load_transcoder(folder), "rows_0.safetensors")


def test_damaged_checkpoints_are_refused(converted: Converted, tmp_path: Path):
    import shutil

    out = Path(shutil.copytree(converted.folder, tmp_path / "out"))
    shutil.rmtree(out / "transcoder" / "encoder_1")
    refuses(lambda: pie_jax.load_transcoder(out / "transcoder"), "encoder_1")
    config = json.loads((out / "model" / "config.json").read_text())
    config["intermediate_size"] *= 2
    (out / "model" / "config.json").write_text(json.dumps(config))
    refuses(lambda: pie_jax.load_model(out / "model"), out / "model", "shapes")
    shutil.copyfile(converted.folder / "model" / "config.json", out / "model" / "config.json")
    shutil.rmtree(out / "model" / "weights")
    refuses(lambda: pie_jax.load_model(out / "model"), "weights", "damaged")


def test_weights_that_are_no_numbers_are_not_written(converted: Converted, tmp_path: Path):
    rows = [np.array(decoder) for decoder in converted.transcoder.decoder_maps]
    rows[1][0, 0, 0] = np.nan
    broken = replace(converted.transcoder, decoder_maps=rows)
    refuses(lambda: pie_jax.convert(converted.model, broken, tmp_path / "out"), "NaN", "W_dec")
    assert not (tmp_path / "out").exists()


def test_places_that_cannot_be_written_are_refused(converted: Converted, tmp_path: Path):
    file = tmp_path / "file"
    file.write_text("")
    for out in (file, file / "out"):
        refuses(lambda out=out: pie_jax.convert(converted.model, converted.transcoder, out), out)
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.tex").write_text("years of work")
    refuses(lambda: pie_jax.convert(converted.model, converted.transcoder, full), full)
    assert [path.name for path in full.iterdir()] == ["thesis.tex"]


# Files of rows


@pytest.mark.parametrize("dtype", [None, np.float16, jnp.bfloat16])
def test_rows_are_written_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: Any):
    """As the library of the format reads them, whatever the size of a piece."""
    from pie_jax.files import tensor_writer

    rng = np.random.default_rng(0)
    tensors = {
        "long": rng.standard_normal((11, 2, 3)).astype(np.float32),
        "flat": rng.standard_normal(5).astype(np.float32),
    }
    kind = None if dtype is None else np.dtype(dtype)
    whole = write_tensors(tmp_path / "whole", tensors, kind)
    monkeypatch.setattr(tensor_writer, "_PIECE_BYTES", 50)
    assert write_tensors(tmp_path / "pieces", tensors, kind) == whole
    assert checkpoint.hashlib.sha256((tmp_path / "pieces").read_bytes()).hexdigest() == whole
    expected = {name: array.astype(kind or array.dtype) for name, array in tensors.items()}
    loaded = load_file(tmp_path / "pieces")
    for name, array in expected.items():
        np.testing.assert_array_equal(loaded[name], array)
        np.testing.assert_array_equal(TensorFile(tmp_path / "pieces").tensor(name), array)
