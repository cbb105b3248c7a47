"""A corpus as numbered windows of tokens, in batches that any pass meets alike.

Shapes: B batch, T positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np

from pie_jax.files.corpus.documents import Corpus
from pie_jax.models.tokenizer import Tokenizer


class Place(NamedTuple):
    """Where a pass stands: the next window's number, and a document at or before it.

    `first` is the number of that document's first window: what lies before need not be tokenized
    again.
    """

    window: int = 0
    document: int = 0
    first: int = 0


class WindowBatch(NamedTuple):
    """`tokens` [B, T] with BOS in front and padding on the right; `length` [B] BOS included, 0 in
    rows that only fill the batch; `number` [B] the windows' numbers; `after` where the next starts.
    """

    tokens: np.ndarray
    length: np.ndarray
    number: np.ndarray
    after: Place


def window_batches(
    corpus: Corpus,
    tokenizer: Tokenizer,
    *,
    window: int,
    size: int,
    shard: tuple[int, int] = (0, 1),
    start: Place | None = None,
    most: int | None = None,
) -> Iterator[WindowBatch]:
    """Cut documents into windows of `window` tokens and yield them in batches of `size`.

    A window holds text of one document, behind its own BOS; a document's last window may be
    shorter. Windows are numbered over the whole corpus, and batch k holds windows k·size on:
    `shard=(i, n)` takes every n-th batch, so that a window shares its batch with the same others
    in every way of splitting the work. `most` ends the corpus after so many windows.
    """
    start = start or Place()
    numbered = _windows(corpus, tokenizer, window, start)
    if most is not None:
        numbered = islice(numbered, max(0, most - start.window))
    while rows := list(islice(numbered, size)):
        place, _ = rows[0]
        if (place.window // size) % shard[1] == shard[0]:
            yield _batch(rows, window, size)


def _windows(
    corpus: Corpus, tokenizer: Tokenizer, window: int, start: Place
) -> Iterator[tuple[Place, list[int]]]:
    bos, number = tokenizer.encode("")[0], start.first
    for document, text in enumerate(islice(corpus.documents(), start.document, None)):
        ids = tokenizer.encode(text)
        ids = ids[1:] if ids[0] == bos else ids
        first = number
        for cut in range(0, len(ids), window - 1):
            if number >= start.window:
                place = Place(number, start.document + document, first)
                yield place, [bos, *ids[cut : cut + window - 1]]
            number += 1


def _batch(rows: list[tuple[Place, list[int]]], window: int, size: int) -> WindowBatch:
    tokens = np.zeros((size, window), np.int32)
    length = np.zeros(size, np.int32)
    for row, (_, ids) in enumerate(rows):
        tokens[row, : len(ids)] = ids
        length[row] = len(ids)
    first, last = rows[0][0], rows[-1][0]
    number = first.window + np.arange(size, dtype=np.int64)
    return WindowBatch(tokens, length, number, last._replace(window=last.window + 1))
