"""Rotary positions: by which angles heads are turned, and turning them.

Shapes: T positions, N heads, K head size.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pie_jax.models.config import ModelConfig, rope_frequencies


class Turns(NamedTuple):
    """Cosine and sine of the angles by which heads are rotated at T positions, None where they are
    not; `local` those of sliding layers, where they differ."""

    full: Float[Array, "T 2 half"] | None
    local: Float[Array, "T 2 half"] | None

    def of(self, slides: Bool[Array, ""]) -> Float[Array, "T 2 half"] | None:
        """Return a layer's."""
        if self.full is None or self.local is None:
            return self.full
        return jnp.where(slides, self.local, self.full)


def rotation(config: ModelConfig, positions: Int[Array, " T"]) -> Turns:
    """Return by which angles heads at some positions are rotated, none if those are learned."""
    if config.rope_theta is None:
        return Turns(None, None)

    def turns(local: bool) -> Float[Array, "T 2 half"]:
        frequencies = jnp.asarray(rope_frequencies(config, local=local))
        angles = positions.astype(jnp.float32)[:, None] * frequencies
        return jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)

    return Turns(turns(False), None if config.local_rope_theta is None else turns(True))


def rotate(x: Float[Array, "T N K"], turns: Float[Array, "T 2 half"]) -> Float[Array, "T N K"]:
    """Rotate the two halves of every head by `rotation` (Hugging Face's layout)."""
    cos, sin = turns[:, None, 0], turns[:, None, 1]
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
