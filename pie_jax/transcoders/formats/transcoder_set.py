"""circuit-tracer `transcoder_set` folders: one transcoder a layer, writing to that layer only.

Files are circuit-tracer's own, or Gemma Scope's and Gemma Scope 2's that config.yaml lists.
"""

from __future__ import annotations

from pathlib import Path

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
from pie_jax.transcoders.formats.layer_files import LayerFile, assemble
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


FORMAT = Format(
    "config.yaml with `model_kind: transcoder_set` beside layer_*.safetensors",
    recognises,
    open_folder,
    ("config.yaml",),
    files,
)
