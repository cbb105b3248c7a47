"""Small random transcoders, in memory and in circuit-tracer's per-layer layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import yaml
from safetensors.numpy import save_file

from pie_jax.transcoders.config import TranscoderConfig
from pie_jax.transcoders.modules import CrossLayerTranscoder, Encoder

# Layers, positions, width and features a layer.
L, T, D, F = 3, 5, 4, 6
THRESHOLD = "activation_function.threshold"


def random(seed: int, *shape: int) -> np.ndarray:
    """Return normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def random_clt(activation: str) -> CrossLayerTranscoder:
    """Return a cross-layer transcoder, `relu` or `jumprelu`."""
    config = TranscoderConfig(L, D, F, activation, model_name="tiny")
    encoders = []
    for layer in range(L):
        threshold = jnp.asarray(abs(random(layer, F))) if activation == "jumprelu" else None
        weight, bias = random(10 + layer, F, D), random(20 + layer, F)
        encoders.append(Encoder(jnp.asarray(weight), jnp.asarray(bias), threshold))
    decoders = [jnp.asarray(random(30 + layer, F, L - layer, D)) for layer in range(L)]
    return CrossLayerTranscoder(config, encoders, decoders, jnp.asarray(random(40, L, D)))


def write_set(folder: Path, *, jump: bool = True, dtype: Any = np.float32, **config: Any) -> Path:
    """Write a per-layer set as circuit-tracer's `TranscoderSet.to_safetensors` does."""
    folder.mkdir()
    for layer in range(L):
        tensors = {
            "W_enc": random(10 + layer, F, D),
            "W_dec": random(30 + layer, F, D),
            "b_enc": random(20 + layer, F),
            "b_dec": random(40 + layer, D),
        }
        if jump:
            tensors[THRESHOLD] = abs(random(layer, F))
        tensors = {name: tensor.astype(dtype) for name, tensor in tensors.items()}
        save_file(tensors, folder / f"layer_{layer}.safetensors")
    raw = {
        "model_name": "tiny",
        "model_kind": "transcoder_set",
        "feature_input_hook": "mlp.hook_in",
        "feature_output_hook": "hook_mlp_out",
        **config,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(raw))
    return folder
