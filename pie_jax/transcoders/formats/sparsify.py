"""EleutherAI's sparsify: a folder a layer, `layers.{l}.mlp/`, of cfg.json and sae.safetensors."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pie_jax.errors import InputError
from pie_jax.transcoders.formats.base import Format
from pie_jax.transcoders.formats.layer_files import SPARSIFY, LayerFile, Site, assemble
from pie_jax.transcoders.store import Transcoder

_MODULE = re.compile(r"(?:model\.|transformer\.)?(?:layers|h)\.(\d+)\.mlp")
# What decides the arithmetic, and what only training needs.
_READ = {"activation", "k", "transcode", "skip_connection", "d_in", "num_latents"}
_TRAINING = {"expansion_factor", "normalize_decoder", "multi_topk"}
_ACTIVATIONS = ("topk", "relu")


def recognises(folder: Path) -> bool:
    """Tell whether a folder holds sparsify's folders, one a hook point."""
    return not (folder / "config.yaml").exists() and bool(list(folder.glob("*/cfg.json")))


def open_folder(folder: Path) -> Transcoder:
    """Open a set of sparsify's transcoders as memory maps."""
    layers: dict[int, Path] = {}
    for path in sorted(path.parent for path in folder.glob("*/cfg.json")):
        match = _MODULE.fullmatch(path.name)
        if match is None:
            raise InputError(
                f"{path}: reads another place than an MLP; known are folders called layers.N.mlp, "
                "model.layers.N.mlp or h.N.mlp."
            )
        if int(match[1]) in layers:
            raise InputError(f"{path}: a second transcoder of layer {match[1]}; remove one.")
        layers[int(match[1])] = path
    gaps = sorted(set(range(max(layers))) - set(layers))
    if gaps:
        raise InputError(
            f"{folder}: layer {gaps[0]} is missing, while layer {max(layers)} is there; fetch it."
        )
    paths = [layers[i] for i in range(len(layers))]
    files = [LayerFile(path / "sae.safetensors", SPARSIFY) for path in paths]
    sites = [
        _site(path / "cfg.json", file, has_skip=file.has("W_skip"))
        for path, file in zip(paths, files, strict=True)
    ]
    for path, site in zip(paths, sites, strict=True):
        if site != sites[0]:
            raise InputError(
                f"{path / 'cfg.json'}: its activation or `k` is not that of layer 0; layers of "
                "different kinds are not handled."
            )
    return assemble(folder, files, sites[0], [path / "cfg.json" for path in paths])


def _site(path: Path, file: LayerFile, *, has_skip: bool) -> Site:
    raw = _read(path)
    _require_known(path, raw)
    if not raw.get("transcode", has_skip):
        raise InputError(
            f"{path}: an autoencoder of the MLP's output (`transcode` is not true), not a "
            "transcoder; it cannot stand for the MLP."
        )
    if bool(raw.get("skip_connection", has_skip)) != has_skip:
        raise InputError(f"{file.path}: `W_skip` and `skip_connection` of cfg.json disagree.")
    said = raw.get("activation", "topk")
    k = raw.get("k")
    if said == "topk" and (type(k) is not int or k < 1):
        raise InputError(f"{path}: `k` is {k!r}; give how many features stay, such as 32.")
    features, d_model = file.sizes()
    for key, expected in (("d_in", d_model), ("num_latents", features)):
        # `num_latents` 0 means expansion_factor times d_in.
        if raw.get(key) not in (None, 0, expected):
            raise InputError(f"{path}: `{key}` is {raw[key]}, but the file has {expected}.")
    top = said == "topk"
    # The module's own output, which is before a post-norm if there is one.
    return Site(
        "mlp_in", "before_post_norm", "", "relu_topk" if top else "relu", k if top else None
    )


def _require_known(path: Path, raw: dict[str, Any]) -> None:
    said = raw.get("activation", "topk")
    if said not in _ACTIVATIONS:
        raise InputError(f"{path}: `activation` is {said!r}; known are {', '.join(_ACTIVATIONS)}.")
    for key, value in raw.items():
        # What is switched off changes nothing.
        if key not in _READ | _TRAINING and value not in (None, False, 0, "none"):
            raise InputError(f"{path}: `{key}` is {value!r}, which is not handled.")


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON; fetch it again.") from error
    if not isinstance(raw, dict):
        raise InputError(f"{path}: must hold one JSON object; fetch it again.")
    return raw


FORMAT = Format(
    "sparsify's layers.*.mlp/ of cfg.json and sae.safetensors",
    recognises,
    open_folder,
    ("*.mlp/cfg.json",),
    lambda folder: ["*.mlp/sae.safetensors"],
)
