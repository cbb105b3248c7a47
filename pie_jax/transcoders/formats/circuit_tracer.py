"""circuit-tracer CLT folders: config.yaml, W_enc_{l}.safetensors, W_dec_{l}.safetensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml

from pie_jax.errors import InputError
from pie_jax.files.tensor_reader import TensorFile, require_finite
from pie_jax.transcoders.config import FeatureActivation, TranscoderConfig
from pie_jax.transcoders.formats.base import (
    Format,
    listed_files,
    listed_local,
    model_kind,
    numbered_layers,
    read_yaml,
    site_of,
)
from pie_jax.transcoders.formats.layer_files import GEMMA_SCOPE_2, LayerFile, Site, assemble
from pie_jax.transcoders.modules import CrossLayerTranscoder
from pie_jax.transcoders.store import EncoderArrays, Transcoder

_KIND = "cross_layer_transcoder"


def recognises(folder: Path) -> bool:
    """Tell whether config.yaml announces a cross-layer transcoder."""
    return model_kind(folder) == _KIND


def open_folder(folder: Path) -> Transcoder:
    """Open a CLT folder as memory maps."""
    raw = read_yaml(folder / "config.yaml")
    site, listed = site_of(raw, folder), listed_files(folder, raw)
    if listed:
        # Gemma Scope 2's: a file a layer.
        of_google = [LayerFile(path, GEMMA_SCOPE_2) for path in listed]
        return assemble(folder, of_google, site, [folder / "config.yaml"], cross_layer=True)
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
        activation=_activation(site, folder, "threshold_0" in encoder_files[0]),
        input_site=site.input_site,
        output_site=site.output_site,
        has_skip="W_skip_0" in encoder_files[0],
        model_name=site.model_name,
    )
    encoders = [_encoder(file, layer, config) for layer, file in enumerate(encoder_files)]
    decoders = [
        file.tensor(f"W_dec_{layer}", (features, config.targets(layer), d_model))
        for layer, file in enumerate(decoder_files)
    ]
    bias = [f.tensor(f"b_dec_{i}", (d_model,)) for i, f in enumerate(encoder_files)]
    stacked = np.stack([np.asarray(b, np.float32) for b in bias])
    require_finite(stacked, f"{folder}: decoder bias")
    paths = (folder / "config.yaml", *(file.path for file in (*encoder_files, *decoder_files)))
    skips = [_skip(file, layer, config) for layer, file in enumerate(encoder_files)]
    kept = [skip for skip in skips if skip is not None]
    return Transcoder(config, str(folder), folder, paths, encoders, decoders, stacked, skips=kept)


def _activation(site: Site, folder: Path, thresholds: bool) -> FeatureActivation:
    """Return the features' activation: JumpReLU where the files hold thresholds, else ReLU.

    Raises `InputError` where config.yaml announces another one.
    """
    found: FeatureActivation = "jumprelu" if thresholds else "relu"
    if site.activation not in (None, "relu", found):
        raise InputError(
            f"{folder / 'config.yaml'}: `activation` is {site.activation!r}, but the files are "
            f"those of {found}; known for CLTs are relu, and jumprelu with thresholds in the files."
        )
    return found


def _skip(file: TensorFile, layer: int, config: TranscoderConfig) -> np.ndarray | None:
    """Return a layer's affine skip [D, D]: stored (in, out), returned (out, in)."""
    name = f"W_skip_{layer}"
    if (name in file) != config.has_skip:
        raise InputError(f"{file.path}: every layer must have a skip `{name}` or none.")
    return file.tensor(name, (config.d_model, config.d_model)).T if config.has_skip else None


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


def files(folder: Path) -> list[str]:
    """Return which files of the folder are needed, as patterns."""
    weights = ["W_enc_*.safetensors", "W_dec_*.safetensors"]
    return listed_local(folder, read_yaml(folder / "config.yaml"), weights)


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
    ("config.yaml",),
    files,
)
