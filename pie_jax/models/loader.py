"""Hugging Face folders to a transformer and back, strictly."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from pie_jax.devices.placement import leaf_name, place_weight
from pie_jax.errors import InputError
from pie_jax.files.hub import resolve_folder
from pie_jax.files.orbax_checkpoint import MANIFEST
from pie_jax.files.tensor_reader import TensorFile, require_finite, require_no_pointer
from pie_jax.models import orbax_folder
from pie_jax.models.abstract import abstract_transformer
from pie_jax.models.config import ModelConfig
from pie_jax.models.families import FAMILIES, Family
from pie_jax.models.families.base import Fields, Tensor, Wrapper
from pie_jax.models.tokenizer import NO_TOKENIZER, Tokenizer, load_tokenizer
from pie_jax.models.transformer import Transformer

_PATTERNS = ["*.json", "*.safetensors", "tokenizer.model"]
_INDEX = "model.safetensors.index.json"
_WEIGHTS = "model.safetensors"
_SHARD = re.compile(r".*-\d+-of-\d+\.safetensors")
_OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".npz")
_UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
_FILES = ("config.json", *TOKENIZER_FILES, MANIFEST)


@dataclass(frozen=True)
class LanguageModel:
    """A transformer with its tokenizer and the folder that both came from.

    One that is only in memory has no folder and, by default, no tokenizer: its prompts are given as
    ids (`pie_jax.TokenPair`).
    """

    transformer: Transformer
    tokenizer: Tokenizer = NO_TOKENIZER
    name: str = "in memory"
    folder: Path | None = None

    @property
    def config(self) -> ModelConfig:
        """Return the transformer's config."""
        return self.transformer.config

    def require_positions(self, tokens: int, what: str) -> None:
        """Raise `InputError` where learned positions end before `what` does, which has so many
        tokens; rotary ones have no end."""
        most = self.config.max_positions
        if self.config.rope_theta is None and tokens > most:
            raise InputError(
                f"{what} has {tokens} tokens, but {self.name} has learned only {most} positions; "
                "shorten it."
            )

    def files(self) -> list[Path]:
        """Return the files that decide what the model computes."""
        if self.folder is None:
            return []
        return sorted(
            path
            for path in self.folder.iterdir()
            if path.suffix == ".safetensors" or path.name in _FILES
        )


class Stored(NamedTuple):
    """A tensor of a file, by the file's name for it."""

    file: TensorFile
    name: str

    def tensor(self, shape: tuple[int, ...] | None = None) -> np.ndarray:
        """Return a view of the tensor, which must have the shape."""
        return self.file.tensor(self.name, shape)


def load_model(
    name: str | Path = "demo", dtype: str = "float32", *, mesh: Mesh | None = None
) -> LanguageModel:
    """Load a language model and its tokenizer from a folder, a hub id or `demo`.

    Weights go leaf by leaf to the device in `dtype` (`float32` or `bfloat16`), or to the devices
    of a mesh, each of which reads its own part. Raises `InputError` for anything in the folder
    that is missing, broken or not handled.
    """
    folder = resolve_folder(name, demo="model", patterns=_PATTERNS, what="model")
    config = read_config(folder / "config.json")
    load = orbax_folder.load if orbax_folder.recognises(folder) else load_transformer
    transformer = load(folder, config, parse_dtype(dtype), mesh)
    return LanguageModel(transformer, load_tokenizer(folder, config.vocab_size), str(name), folder)


def load_model_tokenizer(name: str | Path = "demo") -> Tokenizer:
    """Load only the tokenizer of a model."""
    folder = resolve_folder(name, demo="model", patterns=["*.json", "*.model"], what="model")
    return load_tokenizer(folder)


def parse_dtype(name: str) -> jnp.dtype:
    """Return the dtype that weights are kept in."""
    if name not in ("float32", "bfloat16"):
        raise InputError(f"dtype `{name}` is not known; use float32 or bfloat16.")
    return jnp.dtype(name)


def read_config(path: Path) -> ModelConfig:
    """Read a config.json; an unknown architecture or attribute is an `InputError`."""
    try:
        require_no_pointer(path)
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); fetch it again.") from error
    if not isinstance(raw, dict):
        raise InputError(f"{path}: must hold one JSON object.")
    family, wrapper = _recognised(raw, path)
    fields = Fields(raw, str(path)) if wrapper is None else _text_fields(raw, family, wrapper, path)
    config = family.parse(fields)
    fields.finish()
    rotated = config.rope_theta is not None
    if config.num_heads % config.num_kv_heads or (rotated and config.head_dim % 2):
        raise InputError(
            f"{path}: {config.num_heads} heads must be a multiple of {config.num_kv_heads} "
            f"key/value heads, and their size {config.head_dim} must be even."
        )
    return config


def _recognised(raw: dict, path: Path) -> tuple[Family, Wrapper | None]:
    """Return the family that a config.json names, and what it is wrapped in."""
    kind, architectures = raw.get("model_type"), raw.get("architectures")
    known = []
    for family in FAMILIES.values():
        for wrapper in (None, family.wrapper) if family.wrapper else (None,):
            named = family if wrapper is None else wrapper
            if kind == named.model_type and architectures in (None, [named.architecture]):
                return family, wrapper
            known.append(f"{named.model_type} ({named.architecture})")
    raise InputError(
        f"{path}: model type {kind!r} with architectures {architectures} is not handled; known are "
        f"{', '.join(known)}."
    )


def _text_fields(raw: dict, family: Family, wrapper: Wrapper, path: Path) -> Fields:
    """Return what a multimodal config.json says about text, the rest of it checked."""
    outer, text = Fields(raw, str(path)), raw.get("text_config")
    for key in ("text_config", *wrapper.idle):
        outer.get(key)
    outer.expect("tie_word_embeddings", (True,))
    outer.finish()
    if not isinstance(text, dict) or text.get("model_type") not in (None, family.model_type):
        raise InputError(
            f"{path}: `text_config` must be the settings of a {family.model_type}, but it is "
            f"{text!r}."
        )
    return Fields(text, f"{path}, text_config")


def load_transformer(
    folder: Path, config: ModelConfig, dtype: jnp.dtype, mesh: Mesh | None = None
) -> Transformer:
    """Fill a transformer from the safetensors of a folder, every tensor exactly once."""
    family = FAMILIES[config.family]
    where = _renamed(folder, _tensor_files(folder), family)
    graph, state = nnx.split(abstract_transformer(config, dtype))
    leaves, used = [], set[tuple[str, int]]()
    flat = nnx.to_flat_state(state)
    for path, leaf in flat:
        entry = _entry(family, path)
        names = list(_checkpoint_names(entry, config))
        _check_map(folder, where, names, entry, used)
        read = _reader(entry, names, where, leaf, config)
        leaves.append((path, leaf.replace(place_weight(mesh, leaf_name(path), leaf.shape, read))))
    _check_all_used(folder, where, {name for name, _ in used}, family, config)
    return nnx.merge(graph, nnx.from_flat_state(leaves))


def _entry(family: Family, path: tuple) -> Tensor:
    key = leaf_name(path)
    if key not in family.tensors:
        raise InputError(f"model family {family.model_type}: leaf `{key}` has no tensor mapped.")
    return family.tensors[key]


def _checkpoint_names(entry: Tensor, config: ModelConfig) -> Iterator[str]:
    if "{}" not in entry.name:
        yield entry.name
        return
    for layer in range(config.num_layers):
        yield entry.name.format(layer)


def _renamed(folder: Path, files: dict[str, TensorFile], family: Family) -> dict[str, Stored]:
    """Return where each tensor is by the family's own name for it."""
    where: dict[str, Stored] = {}
    for name, file in files.items():
        own = family.rename(name)
        if own in where:
            raise InputError(
                f"{folder}: `{name}` and `{where[own].name}` are the same tensor twice; fetch the "
                "checkpoint again."
            )
        if own is not None:
            where[own] = Stored(file, name)
    return where


def _check_map(
    folder: Path, where: dict[str, Stored], names: list[str], entry: Tensor, used: set
) -> None:
    missing = [name for name in names if name not in where]
    if missing:
        raise InputError(
            f"{folder}: tensor `{missing[0]}` is missing ({len(missing)} in all); fetch the "
            "checkpoint again, or check config.json."
        )
    parts = {(name, entry.part[0]) for name in names}
    twice = used & parts
    if twice:
        raise InputError(f"{folder}: tensor `{min(twice)[0]}` is mapped twice by the model family.")
    used |= parts


def _check_all_used(
    folder: Path, where: dict[str, Stored], used: set[str], family: Family, config: ModelConfig
) -> None:
    left = set(where) - used
    # Some files of tied models carry the embedding a second time.
    tied = "lm_head.weight"
    if config.tie_embeddings and tied in left:
        embedding = where[family.tensors["embedding"].name].tensor()
        if not np.array_equal(where[tied].tensor(), embedding):
            raise InputError(
                f"{folder}: config.json ties the embeddings, but `{tied}` differs from them; set "
                "`tie_word_embeddings` to false."
            )
        left.discard(tied)
    # Rotary frequencies follow from the config; old exports stored them.
    left = {name for name in left if not name.endswith("rotary_emb.inv_freq")}
    if left:
        raise InputError(
            f"{folder}: {len(left)} tensors belong to nothing in this model, the first is "
            f"`{min(where[name].name for name in left)}`; is config.json the checkpoint's own?"
        )


def _reader(
    entry: Tensor,
    names: list[str],
    where: dict[str, Stored],
    leaf: nnx.Variable,
    config: ModelConfig,
) -> Callable[[tuple[slice, ...]], np.ndarray]:
    """Return what reads a part of a leaf: of the files, only the part's bytes are touched."""
    shape, stacked = tuple(leaf.shape), "{}" in entry.name
    views = []
    for name in names:
        tensor = where[name].tensor(entry.shape(config))
        number, of = entry.part
        width = tensor.shape[-1] // of
        tensor = tensor[..., number * width : (number + 1) * width]
        turned = tensor.T if entry.transpose else tensor
        views.append(turned.reshape(shape[1:] if stacked else shape))

    def read(index: tuple[slice, ...]) -> np.ndarray:
        layers, rest = (index[0], index[1:]) if stacked else (slice(None), index)
        parts = list(zip(names, views, strict=True))[layers]
        host = np.empty((len(parts), *parts[0][1][rest].shape), leaf.dtype)
        for out, (name, view) in zip(host, parts, strict=True):
            stored = where[name]
            require_finite(view[rest], f"{stored.file.path}: tensor `{stored.name}`")
            out[...] = view[rest]
        return host if stacked else host[0]

    return read


def _tensor_files(folder: Path) -> dict[str, TensorFile]:
    """Return the file that holds each tensor: the one that an index names, or the only one."""
    if not (folder / _INDEX).exists():
        _require_weights(folder)
        file = TensorFile(folder / _WEIGHTS)
        return dict.fromkeys(file.names(), file)
    try:
        index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"]
        files = {name: TensorFile(folder / name) for name in sorted(set(index.values()))}
    except _UNREADABLE as error:
        raise InputError(f"{folder / _INDEX}: not a safetensors index; fetch it again.") from error
    for tensor, name in index.items():
        if tensor not in files[name]:
            raise InputError(
                f"{files[name].path}: tensor `{tensor}` is missing, which {_INDEX} says is there; "
                "fetch both again."
            )
    return {tensor: files[name] for tensor, name in index.items()}


def _require_weights(folder: Path) -> None:
    """Raise `InputError`, naming what is there instead, where there is no model.safetensors."""
    if (folder / _WEIGHTS).exists():
        return
    there = sorted(path.name for path in folder.iterdir())
    shards = [name for name in there if _SHARD.fullmatch(name)]
    others = [name for name in there if name.endswith(_OTHER_WEIGHTS)]
    if shards:
        what = f"the folder holds shards such as {shards[0]}, but not {_INDEX}; fetch that too"
    elif others:
        what = f"the weights are in {others[0]}, which is not read; save the model as safetensors"
    else:
        what = "the weights are missing; fetch them"
    raise InputError(f"{folder / _WEIGHTS}: is not there: {what}.")


def save_model(transformer: Transformer, folder: Path, dtype: str = "float32") -> None:
    """Write config.json and model.safetensors as transformers reads them.

    Tokenizer files are the caller's: they are copied, not derived.
    """
    from safetensors.numpy import save_file

    config = transformer.config
    family, kind = FAMILIES[config.family], parse_dtype(dtype)
    parts: dict[str, dict[int, np.ndarray]] = {}
    for path, leaf in nnx.to_flat_state(nnx.state(transformer)):
        entry = _entry(family, path)
        names = list(_checkpoint_names(entry, config))
        stacked = np.asarray(leaf[...]).reshape(len(names), *leaf.shape["{}" in entry.name :])
        shape, (number, of) = entry.shape(config), entry.part
        shape = (*shape[:-1], shape[-1] // of)
        rows, columns = (*shape, 1)[:2]
        for name, value in zip(names, stacked, strict=True):
            matrix = value.reshape(columns, rows).T if entry.transpose else value
            part = np.ascontiguousarray(matrix, kind).reshape(shape)
            parts.setdefault(name, {})[number] = part
    tensors = {
        name: np.concatenate([there[number] for number in sorted(there)], axis=-1)
        if len(there) > 1
        else there[0]
        for name, there in parts.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**family.unparse(config), "torch_dtype": dtype}, indent=2)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    save_file(tensors, folder / _WEIGHTS, metadata={"format": "pt"})
