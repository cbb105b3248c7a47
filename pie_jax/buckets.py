"""Static shapes: sizes are rounded up to a few buckets, so that new prompts recompile nothing."""

from __future__ import annotations


def bucket(size: int, least: int = 16) -> int:
    """Return the smallest of least x {1, 1.5, 2, 3, 4, 6, 8, ...} that holds `size`."""
    top = least
    while top < size:
        if top + top // 2 >= size:
            return top + top // 2
        top *= 2
    return top


def multiple(size: int, of: int) -> int:
    """Round `size` up to a multiple."""
    return -(-size // of) * of
