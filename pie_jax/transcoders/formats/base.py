"""What a transcoder format has to say, and circuit-tracer's config.yaml."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pie_jax.errors import InputError
from pie_jax.transcoders.config import FeatureActivation, InputSite, OutputSite
from pie_jax.transcoders.stored import Transcoder

_INPUT_HOOKS: dict[str, InputSite] = {
    "hook_resid_mid": "resid_mid",
    "mlp.hook_in": "mlp_in",
    "ln2.hook_normalized": "ln2_normalized",
}
_OUTPUT_HOOKS: dict[str, OutputSite] = {
    "hook_mlp_out": "after_post_norm",
    "mlp.hook_out": "before_post_norm",
}


@dataclass(frozen=True)
class Format:
    """A layout on disk: `layout` in words, `recognises` a folder, `open` it."""

    layout: str
    recognises: Callable[[Path], bool]
    open: Callable[[Path], Transcoder]


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


def input_site(raw: dict[str, Any], folder: Path) -> InputSite:
    """Return what the features read, from `feature_input_hook`."""
    return _hook(raw, folder, "feature_input_hook", _INPUT_HOOKS)


def output_site(raw: dict[str, Any], folder: Path) -> OutputSite:
    """Return where the features write, from `feature_output_hook`."""
    return _hook(raw, folder, "feature_output_hook", _OUTPUT_HOOKS)


def activation(raw: dict[str, Any], folder: Path, thresholds: bool) -> FeatureActivation:
    """Return the features' activation: JumpReLU where the files hold thresholds, else ReLU.

    Raises `InputError` where config.yaml announces another one.
    """
    said = raw.get("activation")
    known = ("jumprelu", "jump_relu") if thresholds else ("relu",)
    if said is not None and str(said).lower() not in (*known, "relu"):
        raise InputError(
            f"{folder / 'config.yaml'}: `activation` is {said!r}, but the files are those of "
            f"{known[0]}; known are relu, and jumprelu with thresholds in the files."
        )
    return "jumprelu" if thresholds else "relu"


def _hook(raw: dict[str, Any], folder: Path, key: str, known: dict[str, Any]) -> Any:
    found = raw.get(key)
    if not isinstance(found, str) or found not in known:
        raise InputError(
            f"{folder / 'config.yaml'}: `{key}` is {found!r}; known are {', '.join(known)}."
        )
    return known[found]
