"""circuit-tracer `transcoder_set` folders: one transcoder a layer, writing to that layer only.

Files are circuit-tracer's own, or Gemma Scope's and Gemma Scope 2's that config.yaml lists.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pie_jax.errors import InputError
from pie_jax.transcoders.formats.base import (
    Format,
    listed_files,
    listed_local,
    model_kind,
    numbered_layers,
    read_yaml,
    site_of,
)
from pie_jax.transcoders.formats.layer_files import CIRCUIT_TRACER, LayerFile, assemble
from pie_jax.transcoders.modules import CrossLayerTranscoder
from pie_jax.transcoders.store import Transcoder


def recognises(folder: Path) -> bool:
    """Tell whether config.yaml announces a set of per-layer transcoders."""
    return model_kind(folder) == "transcoder_set"


def open_folder(folder: Path) -> Transcoder:
    """Open a set of per-layer transcoders as memory maps."""
    config = folder / "config.yaml"
    raw = read_yaml(config)
    paths = listed_files(folder, raw)
    if paths is None:
        count = numbered_layers(folder, "layer_{}.safetensors")
        paths = [folder / f"layer_{layer}.safetensors" for layer in range(count)]
    if not paths:
        raise InputError(f"{folder}: no layer_0.safetensors; the transcoders' weights are missing.")
    site = site_of(raw, folder)
    return assemble(folder, [LayerFile(path) for path in paths], site, [config])


def files(folder: Path) -> list[str]:
    """Return which files of the folder are needed, as patterns."""
    return listed_local(folder, read_yaml(folder / "config.yaml"), ["layer_*.safetensors"])


def save_transcoder(transcoder: CrossLayerTranscoder, folder: Path, *, scan: str = "") -> None:
    """Write per-layer transcoders as circuit-tracer's own loader reads them."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    names, config = CIRCUIT_TRACER, transcoder.config
    assert names.threshold is not None
    assert names.skip is not None
    bias = np.asarray(transcoder.bias[...])
    skip = None if transcoder.skip is None else np.asarray(transcoder.skip[...])
    each = zip(transcoder.encoders, transcoder.decoders, strict=True)
    for layer, (encoder, decoder) in enumerate(each):
        tensors = {
            names.weight: np.asarray(encoder.weight[...]),
            names.bias: np.asarray(encoder.bias[...]),
            names.decoder: np.asarray(decoder[...])[:, 0],
            names.out_bias: bias[layer],
        }
        if encoder.threshold is not None:
            tensors[names.threshold] = np.asarray(encoder.threshold[...])
        if skip is not None:
            tensors[names.skip] = skip[layer]
        whole = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
        save_file(whole, folder / f"layer_{layer}.safetensors")
    said: dict[str, Any] = {
        "model_name": config.model_name,
        "model_kind": "transcoder_set",
        "feature_input_hook": "hook_resid_mid",
        "feature_output_hook": "hook_mlp_out",
        "scan": scan or config.model_name,
    }
    if config.top is not None:
        said |= {"activation": config.activation, "k": config.k}
    (folder / "config.yaml").write_text(yaml.safe_dump(said), encoding="utf-8")


FORMAT = Format(
    "config.yaml with `model_kind: transcoder_set` beside layer_*.safetensors",
    recognises,
    open_folder,
    ("config.yaml",),
    files,
)
