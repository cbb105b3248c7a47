"""Opening a transcoder folder of any known format."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from jax.sharding import Mesh

from pie_jax.errors import InputError
from pie_jax.files.hub import resolve_folder
from pie_jax.models.config import ModelConfig
from pie_jax.models.loader import parse_dtype
from pie_jax.transcoders.formats import FORMATS
from pie_jax.transcoders.formats.base import model_kind
from pie_jax.transcoders.store import Transcoder


def load_transcoder(
    name: str | Path = "demo",
    *,
    encoders_on_disk: bool = False,
    dtype: str | None = None,
    mesh: Mesh | None = None,
    packed: bool = False,
) -> Transcoder:
    """Open a transcoder from a folder, a hub id or `demo`; decoders stay on disk.

    A hub id may go on with a folder in the repository, `owner/name/sub/folder@revision`; what that
    folder needs is fetched, and nothing else. Compressed files are refused unless `packed`, as
    reading a row of them means reading all: they are for `convert`.

    Encoders move to the device, or in parts to the devices of a mesh, unless `encoders_on_disk`,
    in the file's dtype unless `dtype` says otherwise. Raises `InputError` for an unknown layout,
    hook or shape.
    """
    marks = sorted({mark for reader in FORMATS.values() for mark in reader.marks})
    folder = _resolve(name, marks)
    for reader in FORMATS.values():
        if reader.recognises(folder):
            if needed := reader.files(folder):
                _resolve(name, needed)
            transcoder = replace(reader.open(folder), name=str(name), mesh=mesh)
            break
    else:
        known = "; ".join(f"{key}: {reader.layout}" for key, reader in FORMATS.items())
        raise InputError(
            f"{folder}: not a transcoder folder of a known format; its `model_kind` is "
            f"{model_kind(folder)!r}, and known are {known}."
        )
    if transcoder.packed is not None and not packed:
        raise InputError(
            f"{transcoder.packed}: compressed, so that no row can be read by itself; write a "
            "folder of memory-mapped files once with `pie-jax convert --model MODEL --transcoder "
            f"{name} --out converted`, and use converted/transcoder."
        )
    if encoders_on_disk:
        return transcoder
    kind = None if dtype is None else parse_dtype(dtype)
    resident = tuple(
        transcoder.load_encoder(layer, kind) for layer in range(transcoder.config.num_layers)
    )
    return replace(transcoder, resident=resident)


def _resolve(name: str | Path, patterns: list[str]) -> Path:
    return resolve_folder(name, demo="clt", patterns=patterns, what="transcoder", subfolders=True)


def require_match(transcoder: Transcoder, config: ModelConfig, model_name: str) -> None:
    """Raise `InputError` where a transcoder cannot belong to a model."""
    ours, theirs = transcoder.config, config
    if (ours.num_layers, ours.d_model) != (theirs.num_layers, theirs.d_model):
        lacks = ours.d_model == theirs.d_model and ours.num_layers < theirs.num_layers
        cause = (
            f"is the file of layer {ours.num_layers} missing?"
            if lacks
            else ("they do not belong together.")
        )
        raise InputError(
            f"transcoder {transcoder.name} has {ours.num_layers} layers of width {ours.d_model}, "
            f"but model {model_name} has {theirs.num_layers} of width {theirs.d_model}; {cause}"
        )
    if ours.output_site == "before_post_norm" and theirs.post_norms:
        raise InputError(
            f"transcoder {transcoder.name} writes before the post-norm of model {model_name}'s "
            "MLPs (`mlp.hook_out`); only `hook_mlp_out` is handled there."
        )
