"""Tiny per-layer and cross-layer sets in the layouts of their publishers, of the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import save_file
from tiny_transcoders import D, F, L, random


def tensors_of(layer: int, *, cross: bool = False) -> dict[str, np.ndarray]:
    """Return a layer's numbers: encoder [F, D], decoder [F, D] or [F, L, D], skip (out, in)."""
    return {
        "W_enc": random(10 + layer, F, D),
        "b_enc": random(20 + layer, F),
        "W_dec": random(30 + layer, F, L, D) if cross else random(30 + layer, F, D),
        "b_dec": random(40 + layer, D),
        "threshold": abs(random(layer, F)),
        "skip": random(60 + layer, D, D),
    }


def write_yaml(folder: Path, **config: Any) -> Path:
    """Write circuit-tracer's config.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = {
        "model_name": "tiny",
        "model_kind": "transcoder_set",
        "feature_input_hook": "mlp.hook_in",
        "feature_output_hook": "hook_mlp_out",
        **config,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(raw))
    return folder


def gemma_scope(folder: Path, *, packed: bool = False) -> Path:
    """Write Gemma Scope 1's params.npz of every layer, and a config.yaml that lists them."""
    names = [f"layer_{layer}/width_16k/average_l0_5/params.npz" for layer in range(L)]
    for layer, name in enumerate(names):
        found = tensors_of(layer)
        found["W_enc"] = found["W_enc"].T.copy()
        del found["skip"]
        path = folder / name
        path.parent.mkdir(parents=True)
        (np.savez_compressed if packed else np.savez)(path, **found)
    hook = "ln2.hook_normalized"
    return write_yaml(folder, feature_input_hook=hook, transcoders=names)


def google(layer: int, *, skip: bool, cross: bool = False) -> dict[str, np.ndarray]:
    """Return a layer's tensors as Gemma Scope 2 names and turns them."""
    found = tensors_of(layer, cross=cross)
    out = {
        "w_enc": found["W_enc"].T.copy(),
        "w_dec": found["W_dec"],
        "b_enc": found["b_enc"],
        "b_dec": found["b_dec"],
        "threshold": found["threshold"],
    }
    # Of both kinds (in, out).
    return out | ({"affine_skip_connection": found["skip"].T.copy()} if skip else {})


def gemma_scope_2(folder: Path, variant: str, *, skip: bool) -> Path:
    """Write Gemma Scope 2's folders of one variant: transcoder_all."""
    for layer in range(L):
        path = folder / f"layer_{layer}_{variant}"
        path.mkdir(parents=True)
        save_file(google(layer, skip=skip), path / "params.safetensors")
        at = f"model.layers.{layer}"
        config = {
            "hf_hook_point_in": f"{at}.pre_feedforward_layernorm.output",
            "hf_hook_point_out": f"{at}.post_feedforward_layernorm.output",
            "width": F,
            "model_name": "tiny",
            "architecture": "jump_relu",
            "l0": 7,
            "affine_connection": skip,
            "type": "transcoder",
        }
        (path / "config.json").write_text(json.dumps(config))
    return folder


def gemma_scope_2_clt(folder: Path, *, skip: bool) -> Path:
    """Write Gemma Scope 2's cross-layer files, with a config.yaml that lists them."""
    folder.mkdir(parents=True)
    names = [f"params_layer_{layer}.safetensors" for layer in range(L)]
    for layer, name in enumerate(names):
        save_file(google(layer, skip=skip, cross=True), folder / name)
    kind = {"model_kind": "cross_layer_transcoder", "transcoders": names}
    return write_yaml(folder, feature_input_hook="hook_resid_mid", **kind)


def sparsify(folder: Path, *, k: int = 2, skip: bool = True, **config: Any) -> Path:
    """Write sparsify's folders of every layer."""
    for layer in range(L):
        found = tensors_of(layer)
        path = folder / f"layers.{layer}.mlp"
        path.mkdir(parents=True)
        tensors = {
            "encoder.weight": found["W_enc"],
            "encoder.bias": found["b_enc"],
            "W_dec": found["W_dec"],
            "b_dec": found["b_dec"],
        }
        save_file(tensors | ({"W_skip": found["skip"]} if skip else {}), path / "sae.safetensors")
        raw = {
            "activation": "topk",
            "expansion_factor": 32,
            "normalize_decoder": True,
            "num_latents": 0,
            "k": k,
            "multi_topk": False,
            "skip_connection": skip,
            "transcode": True,
            "d_in": D,
            **config,
        }
        (path / "cfg.json").write_text(json.dumps(raw))
    return folder


def top(pre: np.ndarray, k: int) -> np.ndarray:
    """Keep the k largest along the last axis; of equal ones the first."""
    best = np.argsort(-pre, axis=-1, kind="stable")[..., :k]
    out = np.zeros_like(pre)
    np.put_along_axis(out, best, np.take_along_axis(pre, best, -1), -1)
    return out


def expected(
    x: np.ndarray, activation: Any, *, skip: bool = False, cross: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return activations [L, T, F] and reconstructions [L, T, D] of inputs x [L, T, D], by loops.

    `activation(pre, threshold)`; features do not fire at BOS, skips do.
    """
    found = [tensors_of(layer, cross=cross) for layer in range(L)]
    active = np.stack(
        [
            activation(x[i] @ one["W_enc"].T + one["b_enc"], one["threshold"])
            for i, one in enumerate(found)
        ]
    )
    out = np.stack([np.tile(one["b_dec"], (x.shape[1], 1)) for one in found])
    for i, one in enumerate(found):
        fired = active[i].copy()
        fired[0] = 0
        rows = one["W_dec"] if cross else one["W_dec"][:, None]
        for step in range(L - i if cross else 1):
            out[i + step] += fired @ rows[:, i + step if cross else 0]
        out[i] += x[i] @ one["skip"].T if skip else 0
    return active, out
