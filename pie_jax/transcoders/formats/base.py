"""What a transcoder format has to say, and circuit-tracer's config.yaml."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pie_jax.errors import InputError
from pie_jax.files.hub import fetch_file
from pie_jax.transcoders.config import FeatureActivation, InputSite, OutputSite
from pie_jax.transcoders.formats.layer_files import Site
from pie_jax.transcoders.store import Transcoder

_INPUT_HOOKS: dict[str, InputSite] = {
    "hook_resid_mid": "resid_mid",
    "mlp.hook_in": "mlp_in",
    "ln2.hook_normalized": "ln2_normalized",
}
_OUTPUT_HOOKS: dict[str, OutputSite] = {
    "hook_mlp_out": "after_post_norm",
    "mlp.hook_out": "before_post_norm",
}
_ACTIVATIONS: dict[str, FeatureActivation] = {
    "relu": "relu",
    "jumprelu": "jumprelu",
    "jump_relu": "jumprelu",
    "topk": "topk",
    "relu_topk": "relu_topk",
}


@dataclass(frozen=True)
class Format:
    """A layout on disk: `layout` in words, `recognises` a folder, `open` it.

    Of a repository on the hub, `marks` are the patterns of the small files that tell the layout,
    and `files(folder)` those of the others that it needs.
    """

    layout: str
    recognises: Callable[[Path], bool]
    open: Callable[[Path], Transcoder]
    marks: tuple[str, ...]
    files: Callable[[Path], list[str]]


def model_kind(folder: Path) -> str | None:
    """Return `model_kind` of a folder's config.yaml, None where there is no such file."""
    path = folder / "config.yaml"
    return str(read_yaml(path).get("model_kind")) if path.exists() else None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a config.yaml, which must be a mapping."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not readable as YAML; fetch it again.") from error
    if not isinstance(raw, dict):
        raise InputError(f"{path}: must hold a mapping with `model_kind` and the hooks.")
    return raw


def numbered_layers(folder: Path, name: str) -> int:
    """Return how many layers have a file called `name`, with the layer in place of {}.

    Other files, such as a copy with another ending, are none. Raises `InputError` for a gap.
    """
    pattern = re.compile(re.escape(name).replace(r"\{\}", r"(\d+)"))
    found = {int(match[1]) for path in folder.iterdir() if (match := pattern.fullmatch(path.name))}
    gaps = sorted(set(range(max(found, default=-1))) - found)
    if gaps:
        raise InputError(
            f"{folder / name.format(gaps[0])}: missing, while layer {max(found)} is there; fetch "
            "the folder again."
        )
    return len(found)


def site_of(raw: dict[str, Any], folder: Path) -> Site:
    """Return what config.yaml says of hooks, model and activation."""
    said = raw.get("activation")
    kind = _ACTIVATIONS.get(str(said).lower())
    if said is not None and kind is None:
        raise InputError(
            f"{folder / 'config.yaml'}: `activation` is {said!r}; known are "
            f"{', '.join(_ACTIVATIONS)}."
        )
    k = raw.get("k")
    if k is not None and type(k) is not int:
        raise InputError(f"{folder / 'config.yaml'}: `k` is {k!r}; write a whole number.")
    if k is not None and kind not in ("topk", "relu_topk"):
        raise InputError(
            f"{folder / 'config.yaml'}: `k` is {k}, but `activation` is {said!r}; write "
            "`activation: topk`, or relu_topk where ReLU comes first."
        )
    return Site(
        _hook(raw, folder, "feature_input_hook", _INPUT_HOOKS),
        _hook(raw, folder, "feature_output_hook", _OUTPUT_HOOKS),
        str(raw.get("model_name", "")),
        kind,
        k,
    )


def listed_files(folder: Path, raw: dict[str, Any]) -> list[Path] | None:
    """Return the files that config.yaml lists, None where it lists none; those on the hub
    (`hf://owner/name/path?revision=...`) are fetched."""
    listed = raw.get("transcoders")
    if listed is None:
        return None
    if not isinstance(listed, list):
        raise InputError(f"{folder / 'config.yaml'}: `transcoders` must be a list of files.")
    return [_listed(folder, str(name)) for name in listed]


def _listed(folder: Path, name: str) -> Path:
    if "://" not in name:
        return folder / name
    return fetch_file(name, f"{folder / 'config.yaml'}: `transcoders` lists")


def listed_local(folder: Path, raw: dict[str, Any], otherwise: list[str]) -> list[str]:
    """Return those of the files that config.yaml lists which lie in the folder."""
    listed = raw.get("transcoders")
    if not isinstance(listed, list):
        return otherwise
    return [str(name) for name in listed if "://" not in str(name)]


def _hook(raw: dict[str, Any], folder: Path, key: str, known: dict[str, Any]) -> Any:
    found = raw.get(key)
    if not isinstance(found, str) or found not in known:
        raise InputError(
            f"{folder / 'config.yaml'}: `{key}` is {found!r}; known are {', '.join(known)}."
        )
    return known[found]
