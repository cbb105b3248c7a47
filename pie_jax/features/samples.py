"""The choice of texts to rate: evenly over bands of activation, and the very top."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

# Percentile bands of activation that get the same number of texts; the rest is the very top.
BANDS = (0.0, 0.50, 0.75, 0.95, 1.0)
BAND_SHARE = 0.9


def banded(
    activations: np.ndarray, common: np.ndarray, count: int, random: np.random.Generator
) -> list[int]:
    """Draw `count` of n texts by their activations [n]: 90% evenly from the bands, then the top.

    Bands are by rank among the `common` [n] texts, those that a random draw from the corpus
    contains; the others are there for the top. Tied texts are in random order. A band that is too
    small leaves its places to the top.
    """
    order = np.lexsort((random.permutation(len(activations)), activations))
    ranked = order[common[order]]
    edges = np.rint(np.array(BANDS) * len(ranked)).astype(int)
    bands = [ranked[a:b] for a, b in pairwise(edges)]
    each = int(BAND_SHARE * count / len(bands))
    chosen: list[int] = []
    for band in bands:
        chosen += random.permutation(band)[:each].tolist()
    taken = set(chosen)
    top = [int(i) for i in order[::-1] if int(i) not in taken]
    return chosen + top[: max(0, count - len(chosen))]


def quantile_spread(
    items: int, count: int, random: np.random.Generator, groups: int = 10
) -> list[int]:
    """Draw `count` of `items` sorted things, as evenly as can be from ten equal parts of them."""
    parts = [random.permutation(part).tolist() for part in np.array_split(np.arange(items), groups)]
    chosen: list[int] = []
    while len(chosen) < min(count, items):
        for part in parts:
            if part and len(chosen) < count:
                chosen.append(part.pop())
    return sorted(chosen)


def derangement(count: int, random: np.random.Generator) -> list[int]:
    """Draw an order in which nothing stays in its place; for one thing there is none."""
    order = random.permutation(count)
    moved = np.empty(count, np.int64)
    moved[order] = np.roll(order, 1)
    return moved.tolist()


def drawn(items: Sequence[int], count: int, random: np.random.Generator) -> list[int]:
    """Draw `count` different items, or all."""
    return [items[int(i)] for i in random.permutation(len(items))[:count]]
