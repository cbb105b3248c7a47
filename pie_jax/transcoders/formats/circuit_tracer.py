"""circuit-tracer CLT folders: config.yaml, W_enc_{l}.safetensors, W_dec_{l}.safetensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml

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
from pie_jax.transcoders.modules import CrossLayerTranscoder
from pie_jax.transcoders.stored import EncoderArrays, Transcoder

_KIND = "cross_layer_transcoder"


def recognises(folder: Path) -> bool:
    """Tell whether config.yaml announces a cross-layer transcoder."""
    return model_kind(folder) == _KIND


def open_folder(folder: Path) -> Transcoder:
    """Open a CLT folder as memory maps."""
    raw = read_yaml(folder / "config.yaml")
    layers = numbered_layers(folder, "W_enc_{}.safetensors")
    if layers == 0:
        raise InputError(f"{folder}: no W_enc_0.safetensors; the CLT's weights are missing.")
    encoder_files = [TensorFile(folder / f"W_enc_{layer}.safetensors") for layer in range(layers)]
    decoder_files = [TensorFile(folder / f"W_dec_{layer}.safetensors") for layer in range(layers)]
    features, d_model = _sizes(encoder_files[0])
    _require_all_layers(folder, decoder_files[0], layers)
    config = TranscoderConfig(
        num_layers=layers,
        d_model=d_model,
        features=features,
        activation=activation(raw, folder, "threshold_0" in encoder_files[0]),
        input_site=input_site(raw, folder),
        output_site=output_site(raw, folder),
        has_skip=any(f"W_skip_{layer}" in file for layer, file in enumerate(encoder_files)),
        model_name=str(raw.get("model_name", "")),
    )
    encoders = [_encoder(file, layer, config) for layer, file in enumerate(encoder_files)]
    decoders = [
        file.tensor(f"W_dec_{layer}", (features, config.targets(layer), d_model))
        for layer, file in enumerate(decoder_files)
    ]
    bias = [f.tensor(f"b_dec_{i}", (d_model,)) for i, f in enumerate(encoder_files)]
    stacked = np.stack([np.asarray(b, np.float32) for b in bias])
    require_finite(stacked, f"{folder}: decoder bias")
    files = (folder / "config.yaml", *(file.path for file in (*encoder_files, *decoder_files)))
    return Transcoder(config, str(folder), folder, files, encoders, decoders, stacked)


def _require_all_layers(folder: Path, first: TensorFile, layers: int) -> None:
    """Raise `InputError` where the first decoder writes to layers that have no files."""
    written = first.shape("W_dec_0")[1:2]
    if written and written[0] > layers:
        raise InputError(
            f"{folder / f'W_enc_{layers}.safetensors'}: missing; the decoder of layer 0 writes to "
            f"{written[0]} layers, and the folder holds {layers}: fetch the others."
        )


def _sizes(file: TensorFile) -> tuple[int, int]:
    shape = file.shape("W_enc_0")
    if len(shape) != 2:
        raise InputError(f"{file.path}: `W_enc_0` must be [F, D], but it is {list(shape)}.")
    return shape


def _encoder(file: TensorFile, layer: int, config: TranscoderConfig) -> EncoderArrays:
    features = (config.features,)
    name = f"threshold_{layer}"
    jump = config.activation == "jumprelu"
    if (name in file) != jump:
        raise InputError(
            f"{file.path}: every layer must have a threshold or none, but `{name}` is "
            f"{'missing' if jump else 'there'} unlike layer 0's; fetch the folder again."
        )
    return EncoderArrays(
        file.tensor(f"W_enc_{layer}", (config.features, config.d_model)),
        file.tensor(f"b_enc_{layer}", features),
        file.tensor(name, features) if jump else None,
    )


def save_transcoder(clt: CrossLayerTranscoder, folder: Path, *, scan: str = "") -> None:
    """Write a cross-layer transcoder as circuit-tracer's own loader reads it."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    bias = np.asarray(clt.bias[...])
    for layer, (encoder, decoder) in enumerate(zip(clt.encoders, clt.decoders, strict=True)):
        tensors = {
            f"W_enc_{layer}": np.asarray(encoder.weight[...]),
            f"b_enc_{layer}": np.asarray(encoder.bias[...]),
            f"b_dec_{layer}": bias[layer],
        }
        if encoder.threshold is not None:
            tensors[f"threshold_{layer}"] = np.asarray(encoder.threshold[...])
        save_file(tensors, folder / f"W_enc_{layer}.safetensors")
        save_file(
            {f"W_dec_{layer}": np.asarray(decoder[...])}, folder / f"W_dec_{layer}.safetensors"
        )
    config = {
        "model_name": clt.config.model_name,
        "model_kind": _KIND,
        "feature_input_hook": "hook_resid_mid",
        "feature_output_hook": "hook_mlp_out",
        "scan": scan or clt.config.model_name,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")


FORMAT = Format(
    "config.yaml with `model_kind: cross_layer_transcoder` beside W_enc_*.safetensors and "
    "W_dec_*.safetensors",
    recognises,
    open_folder,
)
