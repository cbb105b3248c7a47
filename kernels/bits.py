"""The n-th set bit of a mask, without a cumulative sum over the whole mask.

A mask of M x K booleans becomes words of 32 bits; a cumulative sum over the words' counts says
which word holds the n-th set bit, and five halvings say where in the word it is.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt32

_WORD = 32


class SetBits(NamedTuple):
    """A mask [M, K] as `words` [M x ceil(K / 32)], and how many bits are set up to each word."""

    words: UInt32[Array, " W"]
    ends: Int[Array, " W"]
    words_per_row: int

    @property
    def total(self) -> Int[Array, ""]:
        """Return how many bits are set."""
        return self.ends[-1]

    @property
    def per_row(self) -> Int[Array, " M"]:
        """Return how many bits of each row are set."""
        return _ones(self.words).reshape(-1, self.words_per_row).sum(1, dtype=jnp.int32)

    def nth(self, n: Int[Array, " N"]) -> tuple[Int[Array, " N"], Int[Array, " N"]]:
        """Return row and column of the n-th set bits, row by row; anything inside the mask where n
        is not in [0, total)."""
        word = jnp.searchsorted(self.ends, n, side="right").astype(jnp.int32)
        word = jnp.minimum(word, self.words.size - 1)
        bits = self.words[word]
        before = self.ends[word] - _ones(bits)
        row, column = jnp.divmod(word, self.words_per_row)
        return row, column * _WORD + _nth_of_word(bits, n - before)


def set_bits(mask: Bool[Array, "M K"]) -> SetBits:
    """Pack a mask [M, K]."""
    rows, columns = mask.shape
    per_row = -(-columns // _WORD)
    padded = jnp.pad(mask, ((0, 0), (0, per_row * _WORD - columns)))
    bits = padded.reshape(rows * per_row, _WORD).astype(jnp.uint32)
    words = (bits << jnp.arange(_WORD, dtype=jnp.uint32)).sum(-1, dtype=jnp.uint32)
    return SetBits(words, jnp.cumsum(_ones(words)), per_row)


def _ones(words: Array) -> Array:
    return jax.lax.population_count(words).astype(jnp.int32)


def _nth_of_word(word: Array, n: Array) -> Array:
    at = jnp.zeros_like(n)
    for half in (16, 8, 4, 2, 1):
        low = word & jnp.uint32((1 << half) - 1)
        below = _ones(low)
        upper = n >= below
        n = jnp.where(upper, n - below, n)
        word = jnp.where(upper, word >> jnp.uint32(half), low)
        at = jnp.where(upper, at + half, at)
    return at
