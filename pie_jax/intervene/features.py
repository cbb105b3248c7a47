"""Features that are changed, as arrays on the device, and one run's changes of them.

Shapes: U features of all lists, C features of one list, T positions, P positions of a prompt,
L layers, D model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from pie_jax.features.activations import encoder_rows
from pie_jax.features.records import FeatureKey
from pie_jax.transcoders.modules import Encoder
from pie_jax.transcoders.store import Transcoder


class WholeLayer(NamedTuple):
    """A TopK layer's whole encoder: what one of its features is depends on all others."""

    layer: Int[Array, ""]
    encoder: Encoder


class Features(NamedTuple):
    """U features: where they are, `encoder` [U, D] their rows, `whole` the encoders of their
    layers where they are a TopK's, and `rows` [U, L, D] what each writes to every layer, 0 where
    it does not write."""

    layer: Int[Array, "U"]
    feature: Int[Array, "U"]
    encoder: Encoder
    whole: tuple[WholeLayer, ...]
    rows: Float[Array, "U L D"]

    def activations(self, x: Float[Array, "T D"], index: Int[Array, ""]) -> Float[Array, "U T"]:
        """Return the activations of those features that read `x`, the input of layer `index`.

        Of features in other layers the result means nothing.
        """
        if not self.whole:
            return self.encoder(x).T
        out = jnp.zeros((len(self.feature), len(x)), jnp.float32)
        for layer, encoder in self.whole:
            # Encoding a whole layer: in that layer alone.
            out = jax.lax.cond(
                index == layer,
                lambda out, encoder=encoder: encoder.some(x, self.feature).T,
                lambda out: out,
                out,
            )
        return out


class Held(NamedTuple):
    """The C features that one run changes, and where: `on`, `value` and `scale` [C, P] as in
    `Placed`; what the last position says holds for all after it."""

    features: Features
    on: Bool[Array, "C P"]
    value: Float[Array, "C P"]
    scale: Float[Array, "C P"]

    def start(self, positions: int) -> Float[Array, "C T"]:
        """Return the changes of activation before any layer has been read."""
        return jnp.zeros((len(self.on), positions), jnp.float32)

    def change(
        self,
        own: Float[Array, "C T"],
        unchanged: Float[Array, "C T"],
        positions: Int[Array, " T"],
    ) -> Float[Array, "C T"]:
        """Return the change from activations `own` to what is asked for; scales multiply those of
        the `unchanged` run."""
        at = jnp.minimum(positions, self.on.shape[1] - 1)
        target = self.value[:, at] + self.scale[:, at] * unchanged
        return jnp.where(self.on[:, at], target - own, 0.0)

    def in_layer(
        self, index: Int[Array, ""], here: Float[Array, "C T"], before: Float[Array, "C T"]
    ) -> Float[Array, "C T"]:
        """Return the changes `here` of features in layer `index`, and those `before` of others."""
        return jnp.where((self.features.layer == index)[:, None], here, before)

    def written(self, change: Float[Array, "C T"], index: Int[Array, ""]) -> Float[Array, "T D"]:
        """Return what changes of activation add to the MLP's output of layer `index`."""
        rows = self.features.rows[:, index]
        return jnp.einsum("ct,cd->td", change, rows, precision=jax.lax.Precision.HIGHEST)

    def step(
        self,
        read: Float[Array, "T D"],
        positions: Int[Array, " T"],
        index: Int[Array, ""],
        change: Float[Array, "C T"],
    ) -> tuple[Float[Array, "C T"], Float[Array, "T D"]]:
        """Return the changes after layer `index` has read, and what they write there; scales
        multiply the run's own activations."""
        own = self.features.activations(read, index)
        change = self.in_layer(index, self.change(own, own, positions), change)
        return change, self.written(change, index)


def load_features(transcoder: Transcoder, keys: Sequence[FeatureKey], size: int) -> Features:
    """Read features from disk, in their order, the first one again up to `size`.

    Raises `InputError` where a decoder row is NaN.
    """
    config = transcoder.config
    keys = [*keys, *[keys[0]] * (size - len(keys))]
    rows = np.zeros((size, config.num_layers, config.d_model), np.float32)
    parts, order = [], []
    layers = sorted({key.layer for key in keys})
    for layer in layers:
        here = [row for row, key in enumerate(keys) if key.layer == layer]
        features = [keys[row].feature for row in here]
        parts.append(encoder_rows(transcoder, layer, features, len(features)))
        written = transcoder.rows(layer, np.array(features))
        rows[here, layer : layer + written.shape[1]] = written
        order += here
    back = np.argsort(order)
    return Features(
        jnp.asarray([key.layer for key in keys], jnp.int32),
        jnp.asarray([key.feature for key in keys], jnp.int32),
        jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[back], *parts),
        tuple(WholeLayer(jnp.int32(layer), transcoder.encoder(layer)) for layer in layers)
        if config.top is not None
        else (),
        jnp.asarray(rows),
    )


def some_of(features: Features, index: Int[Array, " C"]) -> Features:
    """Return some of the features, in the order of `index`."""

    def pick(leaf: Array) -> Array:
        return leaf[index]

    return Features(
        pick(features.layer),
        pick(features.feature),
        jax.tree.map(pick, features.encoder),
        features.whole,
        pick(features.rows),
    )
