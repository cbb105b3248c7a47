"""circuit-tracer `transcoder_set` folders: one transcoder a layer, writing to that layer only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pie_jax.errors import InputError
from pie_jax.tensor_files import TensorFile, require_finite
from pie_jax.transcoders.config import TranscoderConfig
from pie_jax.transcoders.formats.base import (
    Format,
    activation,
    input_site,
    model_kind,
    numbered_layers,
    output_site,
    read_yaml,
)
from pie_jax.transcoders.stored import EncoderArrays, Transcoder

_THRESHOLD = "activation_function.threshold"


def recognises(folder: Path) -> bool:
    """Tell whether config.yaml announces a set of per-layer transcoders."""
    return model_kind(folder) == "transcoder_set"


def open_folder(folder: Path) -> Transcoder:
    """Open a set of per-layer transcoders as memory maps."""
    raw = read_yaml(folder / "config.yaml")
    files = [TensorFile(path) for path in _layer_paths(folder, raw)]
    shape = files[0].shape("W_enc")
    if len(shape) != 2:
        raise InputError(f"{files[0].path}: `W_enc` must be [F, D], but it is {list(shape)}.")
    features, d_model = shape
    config = TranscoderConfig(
        num_layers=len(files),
        d_model=d_model,
        features=features,
        activation=activation(raw, folder, _THRESHOLD in files[0]),
        cross_layer=False,
        input_site=input_site(raw, folder),
        output_site=output_site(raw, folder),
        has_skip=any("W_skip" in file for file in files),
        model_name=str(raw.get("model_name", "")),
    )
    decoders = [f.tensor("W_dec", shape).reshape(features, 1, d_model) for f in files]
    bias = np.stack([np.asarray(file.tensor("b_dec", (d_model,)), np.float32) for file in files])
    require_finite(bias, f"{folder}: decoder bias")
    paths = (folder / "config.yaml", *(file.path for file in files))
    encoders = [_encoder(file, config) for file in files]
    return Transcoder(config, str(folder), folder, paths, encoders, decoders, bias)


def _layer_paths(folder: Path, raw: dict[str, Any]) -> list[Path]:
    """Return a file for each layer: those that config.yaml lists, else layer_{l}.safetensors."""
    listed = raw.get("transcoders")
    if listed is None:
        count = numbered_layers(folder, "layer_{}.safetensors")
        paths = [folder / f"layer_{layer}.safetensors" for layer in range(count)]
    elif not isinstance(listed, list):
        raise InputError(f"{folder / 'config.yaml'}: `transcoders` must be a list of files.")
    else:
        remote = [name for name in listed if "://" in str(name)]
        if remote:
            raise InputError(
                f"{folder / 'config.yaml'}: `transcoders` lists {remote[0]}; fetch the files and "
                "list them by their paths in the folder."
            )
        paths = [folder / str(name) for name in listed]
    if not paths:
        raise InputError(f"{folder}: no layer_0.safetensors; the transcoders' weights are missing.")
    return paths


def _encoder(file: TensorFile, config: TranscoderConfig) -> EncoderArrays:
    jump = config.activation == "jumprelu"
    if (_THRESHOLD in file) != jump:
        raise InputError(
            f"{file.path}: every layer must have `{_THRESHOLD}` or none; fetch the folder again."
        )
    if "k" in file:
        raise InputError(f"{file.path}: TopK transcoders are not handled; known: ReLU, JumpReLU.")
    threshold = None
    if jump:
        # Stored as one number a feature, with or without leading axes of size one.
        stored = file.tensor(_THRESHOLD)
        if stored.size not in (1, config.features):
            raise InputError(f"{file.path}: `{_THRESHOLD}` must hold 1 or F numbers.")
        threshold = np.broadcast_to(stored.reshape(-1), (config.features,))
    return EncoderArrays(
        file.tensor("W_enc", (config.features, config.d_model)),
        file.tensor("b_enc", (config.features,)),
        threshold,
    )


FORMAT = Format(
    "config.yaml with `model_kind: transcoder_set` beside layer_*.safetensors",
    recognises,
    open_folder,
)
