"""A text corpus as windows of tokens, the same ones for the same seed and step."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from pie_jax.errors import InputError
from pie_jax.models.tokenizer import Tokenizer

# A tokenizer that makes more characters of a token reads fewer windows and repeats them.
_CHARACTERS = 8


class Feed(NamedTuple):
    """Windows of tokens [B, T], N places in B x T flattened, and which of these count [N]."""

    tokens: Int[Array, "B T"]
    places: Int[Array, " N"]
    counts: Bool[Array, " N"]


@dataclass
class Windows:
    """Tokens [W, T] to train on and held-out ones; each row starts with BOS and is padded with it.

    A window is a document or a part of one, alone as in use. BOS marks what does not count: the
    first position, whose features are zeroed in use, and the padding. A batch has `rows`
    windows, which hold about `slots` tokens that count.
    """

    train: np.ndarray
    heldout: np.ndarray
    bos: int
    rows: int
    slots: int
    seed: int
    _epochs: dict[int, np.ndarray] = field(default_factory=dict, repr=False)

    def batch(self, step: int, batches: int = 1) -> Feed:
        """Return what a step trains on, or several from it on; the seed and step decide it."""
        first, last, count = step * self.rows, (step + batches) * self.rows, len(self.train)
        rows = [self._epoch(i // count)[i % count] for i in range(first, last)]
        return self._feed(self.train[rows], batches * self.slots)

    def heldout_batches(self) -> Iterator[Feed]:
        """Yield all held-out tokens, `rows` windows at a time."""
        width = self.heldout.shape[1]
        filler = np.full((-len(self.heldout) % self.rows, width), self.bos, np.int32)
        for tokens in np.concatenate([self.heldout, filler]).reshape(-1, self.rows, width):
            yield self._feed(tokens, self.rows * (width - 1))

    def _feed(self, tokens: np.ndarray, slots: int) -> Feed:
        places = np.flatnonzero(tokens != self.bos)[:slots].astype(np.int32)
        counts = np.arange(slots) < len(places)
        padded = np.pad(places, (0, slots - len(places)))
        return Feed(jnp.asarray(tokens), jnp.asarray(padded), jnp.asarray(counts))

    def _epoch(self, epoch: int) -> np.ndarray:
        if epoch not in self._epochs:
            self._epochs.clear()
            order = np.random.default_rng((self.seed, epoch)).permutation(len(self.train))
            self._epochs[epoch] = order
        return self._epochs[epoch]


def make_windows(
    tokenizer: Tokenizer,
    documents: Iterable[str],
    *,
    window: int,
    slots: int,
    steps: int,
    heldout: int,
    seed: int,
) -> Windows:
    """Cut documents into windows of up to `window` tokens, no more than are needed.

    That is `slots` tokens for each of `steps`, and `heldout` windows, at most a fifth of all.
    Raises `InputError` where there is too little text.
    """
    needed = (steps + 1) * slots + heldout * window
    sample = sample_documents(documents, needed * _CHARACTERS, seed)
    found = _distinct(_pieces(tokenizer, sample, window), needed)
    kept = min(heldout, len(found) // 5)
    tokens = sum(len(piece) - 1 for piece in found[kept:])
    if kept == 0 and tokens >= slots:
        raise InputError(
            f"the corpus has {len(found)} different windows, too few to keep one in five for the "
            "report; give more text or a smaller window."
        )
    if tokens < slots:
        raise InputError(
            f"the corpus has {tokens} tokens to train on, fewer than a batch of {slots}; give more "
            "text or a smaller batch."
        )
    padded = np.asarray([piece + piece[:1] * (window - len(piece)) for piece in found], np.int32)
    rows = min(round(slots * (len(found) - kept) / tokens), len(found) - kept)
    return Windows(padded[kept:], padded[:kept], found[0][0], max(rows, 1), slots, seed)


def sample_documents(documents: Iterable[str], characters: int, seed: int) -> list[str]:
    """Return different documents of about so many characters in all, or all, in random order.

    One pass that keeps the documents with the largest hashes so far: a document that comes again
    is the same to it, and none can be both trained on and held out.
    """
    heap: list[tuple[int, str]] = []
    kept: set[int] = set()
    total = 0
    for text in documents:
        key = _hash(text, seed)
        if key in kept:
            continue
        heapq.heappush(heap, (key, text))
        kept.add(key)
        total += len(text)
        while total - len(heap[0][1]) >= characters:
            dropped, smallest = heapq.heappop(heap)
            kept.discard(dropped)
            total -= len(smallest)
    return [text for _, text in sorted(heap)]


def _hash(text: str, seed: int) -> int:
    salt = seed.to_bytes(16, "little")
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16, salt=salt).digest())


def _distinct(pieces: Iterable[list[int]], tokens: int) -> list[list[int]]:
    """Return different pieces that hold `tokens` tokens, or all."""
    # The ends of long documents can be alike where the documents are not.
    found: dict[tuple[int, ...], list[int]] = {}
    for piece in pieces:
        if tokens <= 0:
            break
        if found.setdefault(tuple(piece), piece) is piece:
            tokens -= len(piece) - 1
    return list(found.values())


def _pieces(tokenizer: Tokenizer, documents: Iterable[str], window: int) -> Iterator[list[int]]:
    for document in documents:
        bos, *ids = tokenizer.encode(document)
        for start in range(0, len(ids), window - 1):
            yield [bos, *ids[start : start + window - 1]]
