"""Activations of chosen features on tokens: only their rows of the encoders are computed.

Shapes: B batch, T positions, L layers, D model, G layers that hold chosen features, P features a
layer (padded), n chosen features.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pie_jax.devices.programs import program
from pie_jax.devices.shapes import bucket
from pie_jax.errors import InputError
from pie_jax.features.records import FeatureKey
from pie_jax.features.texts import text_ids
from pie_jax.models.loader import LanguageModel
from pie_jax.models.transformer import Transformer
from pie_jax.prune.engine.passes import transcoder_inputs
from pie_jax.transcoders.config import InputSite
from pie_jax.transcoders.loader import require_match
from pie_jax.transcoders.modules import Encoder, active_mask
from pie_jax.transcoders.store import EncoderArrays, Transcoder, load_encoder

_LEAST = 8
_LEAST_LENGTH = 16


class FeatureReader:
    """Reads the activations of some features, at the transcoder's own input, as pruning does.

    Raises `InputError` for a feature that the transcoder does not have.
    """

    def __init__(self, model: LanguageModel, transcoder: Transcoder, keys: Sequence[FeatureKey]):
        require_match(transcoder, model.config, model.name)
        check_keys(transcoder, keys)
        self.keys = list(keys)
        self._model, self._site = model, transcoder.config.input_site
        by_layer: dict[int, list[int]] = defaultdict(list)
        for layer, feature in self.keys:
            by_layer[layer].append(feature)
        layers = sorted(by_layer)
        wide = bucket(max(map(len, by_layer.values()), default=1), _LEAST)
        if transcoder.config.top is None:
            rows = [encoder_rows(transcoder, i, by_layer[i], wide) for i in layers]
            self._encoders: Any = _stack(rows)
        else:
            # A TopK's features depend on all others of their layer: whole encoders are kept.
            self._encoders = [
                (transcoder.encoder(i), jnp.asarray(_padded_ids(by_layer[i], wide))) for i in layers
            ]
        self._layers = jnp.asarray(layers, jnp.int32)
        place = {
            (layer, feature): group * wide + rank
            for group, layer in enumerate(layers)
            for rank, feature in enumerate(by_layer[layer])
        }
        self._columns = np.zeros(bucket(len(self.keys), _LEAST), np.int32)
        self._columns[: len(self.keys)] = [place[key] for key in self.keys]

    def dispatch(self, tokens: np.ndarray, length: np.ndarray) -> Array:
        """Start computing [B, T, >= n]; columns beyond the n features mean nothing.

        Raises `InputError` for a text beyond the model's learned positions.
        """
        self._model.require_positions(int(np.max(length, initial=0)), "A text or --window")
        model, columns = self._model.transformer, jnp.asarray(self._columns)
        ids, lengths = jnp.asarray(tokens), jnp.asarray(length)
        if isinstance(self._encoders, Encoder):
            return _read(model, self._encoders, ids, lengths, self._layers, columns, self._site)
        inputs = transcoder_inputs(model, ids, self._site)
        parts = [
            _read_top(encoder, inputs, self._layers[at], features)
            for at, (encoder, features) in enumerate(self._encoders)
        ]
        return _only_real(jnp.concatenate(parts, -1)[..., columns], ids, lengths)

    def read(self, tokens: np.ndarray, length: np.ndarray) -> np.ndarray:
        """Return activations [B, T, n] in float32, 0 at BOS and padding.

        `tokens` [B, T] with BOS in front and padding on the right, `length` [B] BOS included.
        BOS inside a row does not count either.
        """
        return np.asarray(self.dispatch(tokens, length))[..., : len(self.keys)]

    def max_activations(
        self, texts: Sequence[str], *, batch_size: int = 32, most_tokens: int = 256
    ) -> np.ndarray:
        """Return each text's activation [n_texts, n]: its largest over real tokens.

        A text is one prompt of its own, cut after `most_tokens`; one without tokens has 0.
        """
        ids = [text_ids(self._model.tokenizer, text)[:most_tokens] for text in texts]
        return self.max_of_ids(ids, batch_size=batch_size)

    def max_of_ids(self, ids: Sequence[Sequence[int]], *, batch_size: int = 32) -> np.ndarray:
        """Return each row's activation [n_rows, n]; a row is a prompt's ids with BOS in front."""
        out = np.zeros((len(ids), len(self.keys)), np.float32)
        groups: dict[int, list[int]] = defaultdict(list)
        for row, tokens in enumerate(ids):
            groups[bucket(len(tokens), _LEAST_LENGTH)].append(row)
        for wide, rows in sorted(groups.items()):
            for start in range(0, len(rows), batch_size):
                part = rows[start : start + batch_size]
                padded = _padded([ids[row] for row in part], batch_size, wide)
                out[part] = self.read(*padded).max(axis=1)[: len(part)]
        return out


def max_activations(
    model: LanguageModel,
    transcoder: Transcoder,
    texts: Sequence[str],
    keys: Sequence[FeatureKey],
    *,
    batch_size: int = 32,
) -> np.ndarray:
    """Return the activations [n_texts, n] of texts; see `FeatureReader.max_activations`."""
    return FeatureReader(model, transcoder, keys).max_activations(texts, batch_size=batch_size)


@program("site")
def _read(
    model: Transformer,
    encoders: Encoder,
    tokens: Int[Array, "B T"],
    length: Int[Array, " B"],
    layers: Int[Array, " G"],
    columns: Int[Array, " n"],
    site: InputSite,
) -> Float[Array, "B T n"]:
    def one(x: Array, tokens: Array, length: Array) -> Array:
        each = jax.vmap(lambda encoder, x: encoder(x))(encoders, x[layers])
        flat = jnp.moveaxis(each, 1, 0).reshape(len(tokens), -1)[:, columns]
        return _zeroed(flat, tokens, length)

    return jax.vmap(one)(transcoder_inputs(model, tokens, site), tokens, length)


@program()
def _read_top(
    encoder: Encoder, inputs: Float[Array, "B L T D"], layer: Array, features: Int[Array, " P"]
) -> Float[Array, "B T P"]:
    here = jax.lax.dynamic_index_in_dim(inputs, layer, axis=1, keepdims=False)
    return jax.vmap(lambda x: encoder.some(x, features))(here)


@program()
def _only_real(
    values: Float[Array, "B T n"], tokens: Int[Array, "B T"], length: Int[Array, " B"]
) -> Float[Array, "B T n"]:
    return jax.vmap(_zeroed)(values, tokens, length)


def _zeroed(values: Array, tokens: Array, length: Array) -> Array:
    # A text may spell BOS out; it is an outlier wherever it stands.
    real = active_mask(length, len(tokens)) & (tokens != tokens[0])
    return jnp.where(real[:, None], values, 0.0)


def encoder_rows(transcoder: Transcoder, layer: int, features: list[int], wide: int) -> Encoder:
    """Return the encoder [P, D] of some features of a layer, padded with features of weight 0."""
    index = np.asarray(features)
    if transcoder.resident:
        whole = transcoder.resident[layer]
        threshold = None if whole.threshold is None else whole.threshold[...][index]
        rows = Encoder(whole.weight[...][index], whole.bias[...][index], threshold)
    else:
        weight, bias, limit = transcoder.encoder_arrays[layer]
        part = EncoderArrays(weight[index], bias[index], None if limit is None else limit[index])
        rows = load_encoder(part, f"{transcoder.where}: encoder {layer}")
    return jax.tree.map(
        lambda leaf: jnp.pad(leaf, [(0, wide - len(index))] + [(0, 0)] * (leaf.ndim - 1)), rows
    )


def _padded_ids(features: list[int], wide: int) -> np.ndarray:
    return np.array(features + features[:1] * (wide - len(features)), np.int32)


def _stack(encoders: list[Encoder]) -> Encoder:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *encoders)


def _padded(rows: Sequence[Sequence[int]], size: int, wide: int) -> tuple[np.ndarray, np.ndarray]:
    tokens, length = np.zeros((size, wide), np.int32), np.zeros(size, np.int32)
    for row, ids in enumerate(rows):
        tokens[row, : len(ids)] = ids
        length[row] = len(ids)
    return tokens, length


def check_keys(transcoder: Transcoder, keys: Sequence[FeatureKey]) -> None:
    """Raise `InputError` for no feature, one given twice, or one that the transcoder lacks."""
    config = transcoder.config
    if not keys:
        raise InputError("no feature is given; name at least one.")
    if len(set(keys)) < len(keys):
        raise InputError("a feature is given twice; name each one once.")
    for layer, feature in keys:
        if not (0 <= layer < config.num_layers and 0 <= feature < config.features):
            raise InputError(
                f"transcoder {transcoder.name} has no feature {feature} in layer {layer}; it has "
                f"{config.num_layers} layers of {config.features}."
            )
