"""A transcoder on disk: encoders on the device or streamed, decoder rows read as needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike

from pie_jax.devices.placement import place_weight
from pie_jax.files.tensor_reader import require_finite
from pie_jax.transcoders.config import TopK, TranscoderConfig
from pie_jax.transcoders.modules import CrossLayerTranscoder, Encoder


class EncoderArrays(NamedTuple):
    """One layer's encoder as memory maps: weight [F, D], bias [F], threshold [F] or None."""

    weight: np.ndarray
    bias: np.ndarray
    threshold: np.ndarray | None


class LazyLayers(Sequence[Any]):
    """What `read(layer)` returns, one layer at a time; the last one stays in memory."""

    def __init__(self, layers: int, read: Callable[[int], Any]):
        self._layers = layers
        self._read = lru_cache(maxsize=1)(read)

    def __len__(self) -> int:
        return self._layers

    def __getitem__(self, layer: Any) -> Any:
        return self._read(range(self._layers)[layer])


@dataclass(frozen=True)
class Transcoder:
    """What a format's reader returns: memory maps in, rows and encoders out.

    `encoder_arrays` one entry a layer; `decoder_maps` one [F, W, D] map a layer; `bias` [L, D];
    `resident` holds the encoders that were moved to the device, or is empty where they stay on
    disk. On a `mesh`, encoders and rows are spread over it. `restore_encoder(layer, dtype, mesh)`
    is there where a format has a way of its own. `skips` one affine skip [D, D] (out, in) a layer,
    or nothing. `packed` names a file that is compressed, so that each use reads a whole layer.
    """

    config: TranscoderConfig
    name: str
    folder: Path | None
    files: tuple[Path, ...]
    # Of EncoderArrays; named so, the checks of types in tests would read one.
    encoder_arrays: Sequence[Any]
    decoder_maps: Sequence[np.ndarray]
    bias: np.ndarray
    resident: tuple[Encoder, ...] = ()
    mesh: Mesh | None = None
    restore_encoder: Callable[[int, DTypeLike | None, Mesh | None], Encoder] | None = None
    skips: Sequence[np.ndarray] = ()
    packed: Path | None = None

    @property
    def where(self) -> str:
        """Return the folder, or the name of a transcoder that has none."""
        return self.name if self.folder is None else str(self.folder)

    def encoder(self, layer: int) -> Encoder:
        """Return one layer's encoder, from the device if it is there, else read from disk."""
        if self.resident:
            return self.resident[layer]
        return self.load_encoder(layer)

    def load_encoder(self, layer: int, dtype: DTypeLike | None = None) -> Encoder:
        """Read one layer's encoder from disk to the device or the mesh."""
        if self.restore_encoder is not None:
            return self.restore_encoder(layer, dtype, self.mesh)
        what = f"{self.where}: encoder {layer}"
        return load_encoder(self.encoder_arrays[layer], what, dtype, self.mesh, top=self.config.top)

    def rows(self, layer: int, features: np.ndarray) -> np.ndarray:
        """Read the decoder rows [n, W, D] of some features of a layer, as stored.

        Raises `InputError` where a row holds NaN.
        """
        rows = np.asarray(self.decoder_maps[layer][features])
        require_finite(rows, f"{self.where}: decoder of layer {layer}")
        return rows

    def module(self) -> CrossLayerTranscoder:
        """Return the whole transcoder in memory, as a Flax module; for small ones."""
        encoders = [self.encoder(layer) for layer in range(self.config.num_layers)]
        every = np.arange(self.config.features)
        decoders = [jnp.asarray(self.rows(i, every)) for i in range(self.config.num_layers)]
        skip = jnp.stack([self.skip(i) for i in range(len(self.skips))]) if self.skips else None
        return CrossLayerTranscoder(self.config, encoders, decoders, jnp.asarray(self.bias), skip)

    def skip(self, layer: int) -> jax.Array:
        """Read one layer's affine skip [D, D] (out, in). Raises `InputError` where it is NaN."""
        require_finite(self.skips[layer], f"{self.where}: skip of layer {layer}")
        return jnp.asarray(self.skips[layer])


def transcoder_in_memory(clt: CrossLayerTranscoder, name: str = "in memory") -> Transcoder:
    """Return a transcoder module as `pie_jax.prune` takes it; its rows are read from memory."""

    def arrays(encoder: Encoder) -> EncoderArrays:
        threshold = None if encoder.threshold is None else np.asarray(encoder.threshold[...])
        return EncoderArrays(
            np.asarray(encoder.weight[...]), np.asarray(encoder.bias[...]), threshold
        )

    return Transcoder(
        config=clt.config,
        name=name,
        folder=None,
        files=(),
        encoder_arrays=[arrays(encoder) for encoder in clt.encoders],
        decoder_maps=[np.asarray(decoder[...]) for decoder in clt.decoders],
        bias=np.asarray(clt.bias[...]),
        resident=tuple(clt.encoders),
        skips=() if clt.skip is None else list(np.asarray(clt.skip[...])),
    )


def load_encoder(
    arrays: EncoderArrays,
    what: str,
    dtype: DTypeLike | None = None,
    mesh: Mesh | None = None,
    *,
    top: TopK | None = None,
) -> Encoder:
    """Move one layer's encoder to the device or to its shards, as stored or in `dtype`."""

    def move(name: str, array: np.ndarray) -> jax.Array:
        def read(index: tuple[slice, ...]) -> np.ndarray:
            require_finite(array[index], f"{what} ({name})")
            return np.asarray(array[index], dtype or array.dtype)

        return place_weight(mesh, f"encoder.{name}", array.shape, read)

    threshold = None if arrays.threshold is None else move("threshold", arrays.threshold)
    return Encoder(move("weight", arrays.weight), move("bias", arrays.bias), threshold, top)
