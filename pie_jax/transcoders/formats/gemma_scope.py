"""Gemma Scope 2 as Google publishes it: no config.yaml, a config.json beside the parameters.

Per layer `layer_{l}_{variant}/params.safetensors`, of which a folder holds several variants: one is
named like the files, `transcoder_all/layer_*_width_16k_l0_small`. Cross-layer ones are folders of
`params_layer_{l}.safetensors`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pie_jax.errors import InputError
from pie_jax.transcoders.config import InputSite, OutputSite
from pie_jax.transcoders.formats.base import Format, numbered_layers
from pie_jax.transcoders.formats.layer_files import GEMMA_SCOPE_2, LayerFile, Site, assemble
from pie_jax.transcoders.store import Transcoder

_LAYER = re.compile(r"layer_(\d+)_(.+)")
_CROSS = "params_layer_{}.safetensors"
_HOOK = re.compile(r"model\.layers\.(\d+|\{\w*\}|\*)\.(.+)")
_INPUTS: dict[str, InputSite] = {
    "pre_feedforward_layernorm.output": "mlp_in",
    "pre_feedforward_layernorm.input": "resid_mid",
}
_OUTPUTS: dict[str, OutputSite] = {
    "post_feedforward_layernorm.output": "after_post_norm",
    "mlp.output": "before_post_norm",
}


def recognises(folder: Path) -> bool:
    """Tell whether a folder, or a pattern of layers' folders, holds Google's layout."""
    if (folder / "config.yaml").exists():
        return False
    return bool(_variants(folder)) or (folder / _CROSS.format(0)).exists() or _is_cross(folder)


def _is_cross(folder: Path) -> bool:
    path = folder / "config.json"
    return path.exists() and "hf_hook_point_in" in path.read_text(encoding="utf-8")


def _variants(folder: Path) -> dict[str, dict[int, Path]]:
    """Return the layers' folders of each variant."""
    here = folder.parent.glob(folder.name) if "*" in folder.name else folder.glob("layer_*_*")
    found: dict[str, dict[int, Path]] = {}
    for path in here:
        match = _LAYER.fullmatch(path.name)
        if match and (path / "config.json").exists():
            found.setdefault(match[2], {})[int(match[1])] = path
    return found


def open_folder(folder: Path) -> Transcoder:
    """Open Google's layout as memory maps."""
    variants = _variants(folder)
    if not variants:
        return _open_cross(folder)
    if len(variants) > 1:
        names = sorted(variants)
        raise InputError(
            f"{folder}: holds several sets ({', '.join(names)}); name one as "
            f"{folder if '*' not in folder.name else folder.parent}/layer_*_{names[0]}."
        )
    (layers,) = variants.values()
    gaps = sorted(set(range(max(layers))) - set(layers))
    if gaps:
        raise InputError(
            f"{folder}: layer {gaps[0]} is missing, while layer {max(layers)} is there; fetch it, "
            "or use a set of all layers (transcoder_all)."
        )
    configs = [layers[i] / "config.json" for i in range(len(layers))]
    sites = [_site(path, layer) for layer, path in enumerate(configs)]
    for path, site in zip(configs, sites, strict=True):
        if site != sites[0]:
            raise InputError(f"{path}: its hooks or model are not those of {configs[0]}.")
    files = [LayerFile(path.parent / "params.safetensors", GEMMA_SCOPE_2) for path in configs]
    return assemble(folder, files, sites[0], configs)


def _open_cross(folder: Path) -> Transcoder:
    count = numbered_layers(folder, _CROSS)
    if count == 0:
        raise InputError(f"{folder / _CROSS.format(0)}: missing; the CLT's weights are not here.")
    config = folder / "config.json"
    if not config.exists():
        raise InputError(
            f"{folder}: no config.json says what the features read and write; write a config.yaml "
            "with `model_kind: cross_layer_transcoder`, the hooks and the files under "
            "`transcoders`."
        )
    files = [LayerFile(folder / _CROSS.format(i), GEMMA_SCOPE_2) for i in range(count)]
    return assemble(folder, files, _site(config, None), [config], cross_layer=True)


def _site(path: Path, layer: int | None) -> Site:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON; fetch it again.") from error
    if not isinstance(raw, dict):
        raise InputError(f"{path}: must hold one JSON object; fetch it again.")
    architecture = raw.get("architecture", "jump_relu")
    if architecture not in ("jump_relu", "jumprelu"):
        raise InputError(f"{path}: `architecture` is {architecture!r}; known is jump_relu.")
    return Site(
        _hook(raw, "hf_hook_point_in", _INPUTS, path, layer),
        _hook(raw, "hf_hook_point_out", _OUTPUTS, path, layer),
        str(raw.get("model_name", "")),
        "jumprelu",
    )


def _hook(raw: dict[str, Any], key: str, known: dict[str, Any], path: Path, layer: Any) -> Any:
    said = raw.get(key)
    hooks = said if isinstance(said, list) and said else [said]
    sites = set()
    for index, hook in enumerate(hooks):
        match = _HOOK.fullmatch(hook) if isinstance(hook, str) else None
        if match is None or match[2] not in known:
            raise InputError(
                f"{path}: `{key}` is {hook!r}; known are "
                f"{', '.join(f'model.layers.N.{name}' for name in known)}."
            )
        expected = str(layer if layer is not None else index)
        if match[1].isdigit() and match[1] != expected and (layer is not None or len(hooks) > 1):
            raise InputError(f"{path}: `{key}` is {hook!r}, but this is layer {expected}.")
        sites.add(known[match[2]])
    if len(sites) > 1:
        raise InputError(f"{path}: `{key}` names different places in different layers.")
    return sites.pop()


def files(folder: Path) -> list[str]:
    """Return which files of the folder are needed, as patterns."""
    if _variants(folder):
        return ["params.safetensors" if "*" in folder.name else "layer_*/params.safetensors"]
    return [_CROSS.format("*")]


FORMAT = Format(
    "Gemma Scope 2's layer_*_width_*/ with config.json and params.safetensors, or "
    "params_layer_*.safetensors",
    recognises,
    open_folder,
    ("config.json", "layer_*_width_*/config.json"),
    files,
)
