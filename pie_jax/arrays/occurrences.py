"""The features that are active on one prompt, where, and what they write.

Shapes: T positions, L layers, D model, F features a layer, N occurrences.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pie_jax.arrays.dictionary import Dictionary
from pie_jax.arrays.models import Model
from pie_jax.kernels import Writes, active_union, block_size
from pie_jax.prune.batch.metrics import Prompt
from pie_jax.transcoders.modules import active_mask

# Occurrences a position that are tried first where no size is given.
_FIRST = 16


class Occurrences(NamedTuple):
    """Up to N occurrences of features on a prompt, by layer, position and feature; padding is 0.

    `clean` and `corrupted` [N] are activations; `count` says how many there are: more than N were
    too many for the arrays.
    """

    layer: Int[Array, " N"]
    position: Int[Array, " N"]
    feature: Int[Array, " N"]
    clean: Float[Array, " N"]
    corrupted: Float[Array, " N"]
    count: Int[Array, ""]  # type: ignore[assignment]  # a tuple has a method of that name

    @property
    def delta(self) -> Float[Array, " N"]:
        """Return the change of activation, clean minus corrupted; 0 for padding."""
        return self.clean - self.corrupted

    @property
    def valid(self) -> Bool[Array, " N"]:
        """Return which of the N are no padding."""
        return jnp.arange(self.layer.shape[0]) < self.count

    def writes(self, of: Dictionary) -> Writes:
        """Return where each occurrence's decoder rows are and what they are added to."""
        width = of.width[self.layer]
        start = of.start[self.layer] + self.feature * width
        return Writes(start, self.layer, self.layer + width - 1, self.position)


def occurrences(
    model: Model,
    of: Dictionary,
    clean: Prompt,
    corrupted: Int[Array, " T"] | None = None,
    size: int | None = None,
) -> Occurrences:
    """Return the occurrences that are active on the clean prompt, the corrupted one, or both, but
    none at the first position (BOS).

    Without a corrupted prompt their activations there are 0 ("zero-features"). `size` is N, and has
    to be given under `jit` and `vmap`: check that `count` is not above it. Without it arrays grow
    until all fit.
    """
    runs = [clean.tokens] if corrupted is None else [clean.tokens, corrupted]
    delta = jnp.zeros((of.weight.shape[0], clean.tokens.shape[0], of.weight.shape[2]), jnp.float32)
    inputs = jnp.stack([model(tokens, delta).inputs for tokens in runs], axis=1)
    if size is not None:
        return _found(of, inputs, clean.length, size)
    size = _FIRST * clean.tokens.shape[0]
    found = _found(of, inputs, clean.length, size)
    while int(found.count) > size:
        size *= 2
        found = _found(of, inputs, clean.length, size)
    return found


def _found(
    of: Dictionary, inputs: Float[Array, "L M T D"], length: Int[Array, ""], size: int
) -> Occurrences:
    _, versions, positions, _ = inputs.shape
    block = block_size(versions * positions, of.weight.shape[1])
    real = active_mask(length, positions)

    def layer(parts: tuple) -> tuple:
        (weight, bias, threshold), runs = parts
        found = active_union(weight, bias, threshold, runs, real, size, block)
        return found.position, found.feature, found.activation, found.count

    encoders = (of.weight, of.bias, of.threshold)
    position, feature, activation, counts = jax.lax.map(layer, (encoders, inputs))
    there = jnp.arange(size) < counts[:, None]
    (index,) = jnp.nonzero(there.reshape(-1), size=size, fill_value=0)
    use = jnp.arange(size) < counts.sum()

    def taken(array: Array) -> Array:
        return jnp.where(use, array.reshape(-1)[index], 0)

    clean = taken(activation[:, 0])
    others = taken(activation[:, 1]) if versions > 1 else jnp.zeros_like(clean)
    return Occurrences(
        taken(jnp.broadcast_to(jnp.arange(len(counts))[:, None], there.shape)),
        taken(position), taken(feature), clean, others, counts.sum(),
    )  # fmt: skip
