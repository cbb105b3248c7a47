"""A model as one orbax checkpoint, beside its config.json and tokenizer."""

from __future__ import annotations

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from pie_jax.devices.placement import leaf_name
from pie_jax.errors import InputError
from pie_jax.files.orbax_checkpoint import (
    is_kind,
    load_arrays,
    read_manifest,
    save_arrays,
    write_manifest,
)
from pie_jax.models.abstract import abstract_transformer
from pie_jax.models.config import ModelConfig
from pie_jax.models.transformer import Transformer

_KIND = "pie-jax-model"
_WEIGHTS = "weights"
_BESIDE = (
    "config.json",
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja"),
)


def recognises(folder: Path) -> bool:
    """Tell whether a folder holds a converted model."""
    return is_kind(folder, _KIND)


def load(
    folder: Path, config: ModelConfig, dtype: jnp.dtype, mesh: Mesh | None = None
) -> Transformer:
    """Restore a transformer in `dtype`, each shard of a weight straight to its device.

    Raises `InputError` where the checkpoint is damaged or does not belong to the config.
    """
    graph, state = nnx.split(abstract_transformer(config, dtype))
    flat = nnx.to_flat_state(state)
    wanted = {leaf_name(path): leaf.get_value() for path, leaf in flat}
    shapes = {name: list(leaf.shape) for name, leaf in wanted.items()}
    if read_manifest(folder, _KIND).get("shapes") != shapes:
        raise InputError(f"{folder}: the weights are not of config.json's shapes; convert again.")
    arrays = load_arrays(folder / _WEIGHTS, wanted, mesh)
    leaves = [(path, leaf.replace(arrays[leaf_name(path)])) for path, leaf in flat]
    return nnx.merge(graph, nnx.from_flat_state(leaves))


def save(transformer: Transformer, source: Path, folder: Path) -> None:
    """Write a transformer's weights as they are, with config and tokenizer of the folder `source`.

    Config and tokenizer are copied, not derived.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in _BESIDE:
        if (source / name).exists():
            shutil.copyfile(source / name, folder / name)
    flat = nnx.to_flat_state(nnx.state(transformer))
    arrays: dict[str, jax.Array] = {leaf_name(path): leaf.get_value() for path, leaf in flat}
    digests = save_arrays(folder / _WEIGHTS, arrays)
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    dtype = str(transformer.embedding.dtype)
    write_manifest(folder, _KIND, {"dtype": dtype, "shapes": shapes, "sha256": digests})
