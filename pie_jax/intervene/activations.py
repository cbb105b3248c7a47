"""Activations of features beside those of the unchanged run, as a table.

Shapes: R runs (a prompt with a list of changes each), L layers, T positions, D model, n features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pie_jax.devices.programs import program
from pie_jax.devices.shapes import bucket
from pie_jax.features.activations import encoder_rows
from pie_jax.features.records import FeatureKey
from pie_jax.prune.batch.occurrences import OccurrenceFinder
from pie_jax.transcoders.modules import ZEROED_POSITIONS, Encoder
from pie_jax.transcoders.store import Transcoder

_LEAST = 8

Columns = dict[str, np.ndarray]
Both = Float[Array, "R 2 L T D"]


class ActivationReader:
    """Reads the activations of asked features, or without any of all that are active in either of
    two runs; `pre` before the activation function as well."""

    def __init__(self, transcoder: Transcoder, keys: Sequence[FeatureKey] | None, pre: bool):
        self._transcoder, self._keys, self._pre = transcoder, keys, pre
        self._finder = OccurrenceFinder(transcoder)

    def read(self, both: Both, length: np.ndarray) -> Columns:
        """Return columns run, layer, position, feature, before, after, in this order of rows.

        `both` holds what is read in the unchanged and in the changed run; runs of `length` 0 have
        no rows, and neither has BOS.
        """
        if self._keys is None:
            columns = self._active(both, length)
            return self._with_pre(columns, both) if self._pre else columns
        return self._with_pre(_every(self._keys, length), both, asked=True)

    def _active(self, both: Both, length: np.ndarray) -> Columns:
        found = self._finder.find(both[:, 0], both[:, 1:], length)
        valid = found.valid
        return {
            "run": np.nonzero(valid)[0].astype(np.int32),
            "layer": found.layer[valid],
            "position": found.position[valid],
            "feature": found.feature[valid],
            "before": found.clean[valid],
            "after": found.corrupted[:, 0][valid],
        }

    def _with_pre(self, columns: Columns, both: Both, asked: bool = False) -> Columns:
        """Return columns with pre-activations, and of `asked` features with activations."""
        names = ("before", "after")
        out = {f"{kind}{name}": np.zeros(len(columns["run"]), np.float32)
               for kind in ("", "pre_") for name in names}  # fmt: skip
        for layer, here in _by_layer(columns["layer"]):
            features, rank = np.unique(columns["feature"][here], return_inverse=True)
            values = self._values(layer, features, both)
            at = (columns["run"][here], columns["position"][here], rank)
            for kind, value in zip(("", "pre_"), values, strict=True):
                for side, name in enumerate(names):
                    out[f"{kind}{name}"][here] = value[:, side][at]
        if not asked:
            return {**out, **columns}
        if not self._pre:
            out = {name: out[name] for name in names}
        return {**columns, **out}

    def _values(self, layer: int, features: np.ndarray, both: Both) -> tuple[np.ndarray, ...]:
        size = bucket(len(features), _LEAST)
        ids = np.pad(features, (0, size - len(features))).astype(np.int32)
        rows = encoder_rows(self._transcoder, layer, features.tolist(), size)
        top = self._transcoder.config.top is not None
        whole = self._transcoder.encoder(layer) if top else None
        values = _read_layer(rows, whole, both, jnp.int32(layer), jnp.asarray(ids))
        return tuple(np.asarray(value) for value in values)


def _every(keys: Sequence[FeatureKey], length: np.ndarray) -> Columns:
    """Return a row for each run, asked feature and position after BOS."""
    places = [
        (run, key.layer, position, key.feature)
        for run, end in enumerate(length.tolist())
        for key in keys
        for position in range(ZEROED_POSITIONS, end)
    ]
    columns = np.array(places, np.int32).reshape(-1, 4).T
    return dict(zip(("run", "layer", "position", "feature"), columns, strict=True))


def _by_layer(layers: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for layer in np.unique(layers).tolist():
        yield layer, layers == layer


@program()
def _read_layer(
    rows: Encoder,
    whole: Encoder | None,
    both: Float[Array, "R 2 L T D"],
    layer: Int[Array, ""],
    features: Int[Array, " n"],
) -> tuple[Float[Array, "R 2 T n"], Float[Array, "R 2 T n"]]:
    """Return activations and pre-activations of some features of a layer."""

    def one(x: Array) -> tuple[Array, Array]:
        activations = rows(x) if whole is None else whole.some(x, features)
        return activations, rows.preactivations(x)

    here = jax.lax.dynamic_index_in_dim(both, layer, axis=2, keepdims=False)
    return jax.vmap(jax.vmap(one))(here)
