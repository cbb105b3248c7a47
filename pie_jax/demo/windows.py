"""Documents packed into windows of tokens, each document behind its own BOS."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from tokenizers import Tokenizer


def make_batches(
    tokenizer: Tokenizer, documents: Sequence[str], *, rows: int, window: int, seed: int
) -> Callable[[int], np.ndarray]:
    """Return step -> tokens, int32 [rows, window], a function of the seed and the step alone.

    `tokenizer` puts BOS in front of every document.
    """
    encodings = tokenizer.encode_batch_fast(list(documents))
    ids = [np.asarray(encoding.ids, np.int32) for encoding in encodings]

    def batch(step: int) -> np.ndarray:
        random = np.random.default_rng((seed, step))
        return np.stack([_window(ids, window, random) for _ in range(rows)])

    return batch


def _window(ids: Sequence[np.ndarray], window: int, random: np.random.Generator) -> np.ndarray:
    # What a window cuts off is dropped: the next one starts with a document, so with a BOS.
    chosen: list[np.ndarray] = []
    length = 0
    while length < window:
        chosen.append(ids[int(random.integers(len(ids)))])
        length += len(chosen[-1])
    return np.concatenate(chosen)[:window]
