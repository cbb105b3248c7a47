"""A plan from names: configs and headers are read, weights are not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pie_jax.devices.rates import copy_bytes, matmul_flops, read_bytes
from pie_jax.devices.shapes import length_class
from pie_jax.errors import InputError
from pie_jax.files.hub import DEMO, resolve_folder
from pie_jax.models.config import PRESETS, ModelConfig
from pie_jax.models.loader import load_model_tokenizer, parse_dtype, read_config
from pie_jax.prune.batch.pairs import batches
from pie_jax.prune.engine.corruptions import extended
from pie_jax.prune.options import PruneOptions
from pie_jax.prune.plan import memory, speed
from pie_jax.prune.plan.memory import Encoders, Load, Shapes
from pie_jax.prune.setup import encoding
from pie_jax.tasks import Pair, encode_pairs
from pie_jax.transcoders.config import TranscoderConfig
from pie_jax.transcoders.loader import load_transcoder, require_match
from pie_jax.transcoders.store import Transcoder

_SIZES = re.compile(r"([1-9]\d*)x([1-9]\d*)")
# Of a transcoder that is named by its sizes: as the published ones are stored.
_STORED = 2


@dataclass(frozen=True)
class Opened:
    """What is planned for; `transcoder` None where only its sizes are known."""

    shapes: Shapes
    transcoder: Transcoder | None


@dataclass(frozen=True)
class Plan:
    """What goes where for a batch: `encoders` the option to use, `largest` the most prompts that
    fit with it, None where not one does; `host` bytes of host memory, None where not said."""

    shapes: Shapes
    load: Load
    options: PruneOptions
    encoders: Encoders
    device: int
    host: int | None
    largest: int | None

    @property
    def needed(self) -> int:
        """Return the device's peak in bytes."""
        batch = memory.batch_bytes(self.shapes, self.load, self.options)
        return memory.resident_bytes(self.shapes, self.encoders) + batch

    @property
    def fits(self) -> bool:
        """Tell whether the batch fits."""
        return self.largest is not None and self.load.batch <= self.largest

    def places(self) -> dict[str, tuple[str, int]]:
        """Return where model weights, encoders and decoders are, and their sizes in bytes."""
        layers = self.shapes.transcoder.num_layers
        encoders = layers * memory.encoder_bytes(self.shapes)
        decoders = memory.decoder_bytes(self.shapes)
        streamed = encoders if self.encoders == "disk" else 0
        return {
            "model weights": ("device", memory.model_bytes(self.shapes)),
            "encoders": ("device" if not streamed else self._cached(encoders), encoders),
            "decoders": (self._cached(streamed + decoders), decoders),
        }

    def cached(self) -> bool:
        """Tell whether host memory keeps everything that is read again and again."""
        return all(where != "disk" for where, _ in self.places().values())

    def _cached(self, size: int) -> str:
        """Files are mapped: what was read stays in host memory where there is room."""
        free = (self.host or 0) - memory.host_bytes(self.shapes, self.load)
        return "host" if size <= free else "disk"


def open_names(model: str, transcoder: str, dtype: str) -> Opened:
    """Read the shapes of a model and a transcoder.

    `model` may be a preset such as `llama-3.2-1b`, `transcoder` sizes such as `16x32768` (layers x
    features a layer, cross-layer, stored in bfloat16). Raises `InputError` where one cannot be
    read, is not here, or does not belong to the other.
    """
    config, weight = _model_config(model), parse_dtype(dtype).itemsize
    match = _SIZES.fullmatch(transcoder)
    if match is not None and not Path(transcoder).exists():
        made = TranscoderConfig(int(match[1]), config.d_model, int(match[2]), "relu")
        if made.num_layers != config.num_layers:
            raise InputError(
                f"--transcoder {transcoder}: has {made.num_layers} layers, but model {model} has "
                f"{config.num_layers}."
            )
        return Opened(Shapes(config, made, weight, _STORED, _STORED), None)
    opened = load_transcoder(_transcoder_folder(transcoder), encoders_on_disk=True)
    opened = replace(opened, name=transcoder)
    require_match(opened, config, model)
    encoder = opened.encoder_arrays[0].weight.dtype.itemsize
    decoder = opened.decoder_maps[0].dtype.itemsize
    return Opened(Shapes(config, opened.config, weight, encoder, decoder), opened)


def _model_config(name: str) -> ModelConfig:
    if name in PRESETS and not Path(name).exists():
        return PRESETS[name]
    folder = resolve_folder(name, demo="model", patterns=["config.json"], what="model")
    return read_config(folder / "config.json")


def _transcoder_folder(name: str) -> Path | str:
    """Return a folder here; a hub id only if its files are in the cache, as headers need files."""
    if name == DEMO or Path(name).expanduser().exists():
        return name
    repo, _, revision = name.partition("@")
    owner, *rest = repo.split("/")
    if rest and not name.startswith(("/", ".", "~")):
        from huggingface_hub import try_to_load_from_cache

        within = "/".join([*rest[1:], "config.yaml"])
        found = try_to_load_from_cache(f"{owner}/{rest[0]}", within, revision=revision or None)
        if isinstance(found, str):
            return Path(found).parent
    raise InputError(
        f"--transcoder {name}: is not a folder or downloaded; plan with its sizes instead, layers "
        "x features a layer, such as 16x32768."
    )


def load_of_tokens(tokens: int, active: float, options: PruneOptions) -> Load:
    """Return a batch of prompts of so many tokens, BOS counted, one corruption each, beside those
    that the options make more, that may change all of them. Raises `InputError` for numbers that
    mean nothing."""
    _check(tokens, active)
    length = length_class(tokens)
    return Load(1, 1 + options.more_corruptions, length, tokens, length, active)


def load_of_pairs(
    model: str, pairs: Sequence[Pair], options: PruneOptions, active: float, source: str
) -> Load:
    """Return the largest batch of the pairs, for one prompt; only the tokenizer is loaded."""
    _check(2, active)
    if model in PRESETS and not Path(model).exists():
        raise InputError(
            f"--pairs {source}: needs the tokenizer, which preset `{model}` has not; name a folder "
            "or a hub id, or give --tokens."
        )
    tokenizer = load_model_tokenizer(model)
    encoded, _ = encode_pairs(
        pairs, tokenizer, **encoding(options), on_bad_pair="skip", source=source
    )
    found = batches(extended(encoded, options, source), options.batch_size)
    most = max(found, key=lambda one: (one.corrupted.size, one.clean.size))
    versions, length = most.corrupted.shape[1:]
    return Load(1, max(versions, 1), length, int(most.length.max()), most.window, active)


def _check(tokens: int, active: float) -> None:
    if tokens < 2:
        raise InputError(f"--tokens: must be at least 2, BOS counted, but it is {tokens}.")
    if not 0 < active < float("inf"):
        raise InputError(f"--active: must be a number above 0, but it is {active}.")


def make_plan(
    shapes: Shapes,
    load: Load,
    options: PruneOptions,
    *,
    device: int,
    host: int | None = None,
    batch: int | None = None,
) -> Plan:
    """Return the plan of a batch of `batch` prompts, or of the options' size or what fits of it.

    `device` and `host` are bytes of memory.
    """
    wanted = replace(load, batch=batch or options.batch_size)
    encoders = memory.choose_encoders(shapes, wanted, options, device)
    largest = memory.largest_batch(shapes, load, options, encoders, device)
    if batch is None:
        wanted = replace(load, batch=min(options.batch_size, largest or 1))
    return Plan(shapes, wanted, options, encoders, device, host, largest)


def measure_rates(plan: Plan, dtype: str, transcoder: Transcoder | None) -> speed.Rates:
    """Measure this machine's product, copy, and reading of decoder rows from where they will be."""
    maps: Sequence[np.ndarray] = [] if transcoder is None else transcoder.decoder_maps
    read = read_bytes(maps, cached=plan.cached()) if len(maps) else None
    return speed.Rates(matmul_flops(dtype), copy_bytes(), read)
