"""Converted transcoders: an orbax checkpoint an encoder, decoder rows in memory-mapped files.

A batch needs a few rows of each decoder. Orbax restores arrays or shards of them, not chosen
rows, so decoders stay in safetensors files `rows_{l}.safetensors` beside the checkpoints.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike

from pie_jax.errors import InputError
from pie_jax.files.orbax_checkpoint import (
    MANIFEST,
    is_kind,
    load_arrays,
    read_manifest,
    save_arrays,
    write_manifest,
)
from pie_jax.files.tensor_reader import TensorFile
from pie_jax.files.tensor_writer import write_tensors
from pie_jax.transcoders.config import TranscoderConfig
from pie_jax.transcoders.formats.base import Format
from pie_jax.transcoders.modules import Encoder
from pie_jax.transcoders.store import EncoderArrays, LazyLayers, Transcoder

_KIND = "pie-jax-transcoder"


def recognises(folder: Path) -> bool:
    """Tell whether a folder holds a converted transcoder."""
    return is_kind(folder, _KIND)


def open_folder(folder: Path) -> Transcoder:
    """Open a converted transcoder: rows as memory maps, encoders where they are asked for."""
    manifest = read_manifest(folder, _KIND)
    try:
        config = TranscoderConfig(**manifest["config"])
        dtypes = manifest["dtypes"]
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder / MANIFEST}: lacks sizes or dtypes; convert again.") from error
    files = [TensorFile(_rows(folder, layer)) for layer in range(config.num_layers)]
    decoders = [
        file.tensor("W_dec", (config.features, config.targets(layer), config.d_model))
        for layer, file in enumerate(files)
    ]
    bias = np.stack([np.asarray(file.tensor("b_dec"), np.float32) for file in files])
    restore = partial(_restore, folder, config, dtypes)
    encoders = LazyLayers(config.num_layers, lambda layer: _host(restore(layer, None, None)))
    square = (config.d_model, config.d_model)
    skips = [file.tensor("W_skip", square) for file in files] if config.has_skip else []
    # The manifest holds the SHA-256 of all the rest.
    known = (folder / MANIFEST,)
    return Transcoder(
        config,
        str(folder),
        folder,
        known,
        encoders,
        decoders,
        bias,
        restore_encoder=restore,
        skips=skips,
    )


def _restore(
    folder: Path,
    config: TranscoderConfig,
    dtypes: dict[str, str],
    layer: int,
    dtype: DTypeLike | None,
    mesh: Mesh | None,
) -> Encoder:
    shapes = {"weight": (config.features, config.d_model)}
    wanted = {
        name: jax.ShapeDtypeStruct(shapes.get(name, (config.features,)), dtype or kind)
        for name, kind in dtypes.items()
    }
    arrays = load_arrays(folder / f"encoder_{layer}", wanted, mesh, "encoder.")
    return Encoder(arrays["weight"], arrays["bias"], arrays.get("threshold"), config.top)


def _host(encoder: Encoder) -> EncoderArrays:
    arrays = {name: np.asarray(array) for name, array in _arrays(encoder).items()}
    return EncoderArrays(arrays["weight"], arrays["bias"], arrays.get("threshold"))


def _arrays(encoder: Encoder) -> dict[str, jax.Array]:
    arrays = {"weight": encoder.weight[...], "bias": encoder.bias[...]}
    if encoder.threshold is not None:
        arrays["threshold"] = encoder.threshold[...]
    return arrays


def _rows(folder: Path, layer: int) -> Path:
    return folder / f"rows_{layer}.safetensors"


def save(transcoder: Transcoder, folder: Path, dtype: DTypeLike | None = None) -> None:
    """Write a transcoder as stored or in `dtype`, one layer in memory at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    config = transcoder.config
    kind = None if dtype is None else np.dtype(dtype)
    digests: dict[str, Any] = {}
    dtypes: dict[str, str] = {}
    for layer, decoder in enumerate(transcoder.decoder_maps):
        encoder = _arrays(transcoder.load_encoder(layer, kind))
        dtypes = {name: str(array.dtype) for name, array in encoder.items()}
        digests[f"encoder_{layer}"] = save_arrays(folder / f"encoder_{layer}", encoder)
        rows = {"W_dec": decoder, "b_dec": transcoder.bias[layer]}
        if config.has_skip:
            rows["W_skip"] = transcoder.skips[layer]
        path = _rows(folder, layer)
        digests[path.name] = write_tensors(path, rows, kind)
    content = {"config": asdict(config), "dtypes": dtypes, "sha256": digests}
    write_manifest(folder, _KIND, content)


FORMAT = Format(
    f"{MANIFEST} with `format: {_KIND}` beside encoder_*/ and rows_*.safetensors",
    recognises,
    open_folder,
    (MANIFEST,),
    lambda folder: ["encoder_*", "rows_*.safetensors"],
)
