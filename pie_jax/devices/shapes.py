"""Static shapes: sizes are rounded up to a few classes, so that new prompts compile nothing."""

from __future__ import annotations

# Positions of a padded prompt, and those of its end that a corruption changes. A few sizes, as all
# of pruning is compiled for each pair of them; beyond the last, those of `bucket`.
_LENGTHS = (20, 44, 64, 96, 128)
_WINDOWS = (8, 12, 20, 32, 44, 64, 96, 128)


def length_class(positions: int) -> int:
    """Return the smallest T that holds so many positions."""
    return _smallest(_LENGTHS, positions)


def window_class(positions: int, length: int) -> int:
    """Return the smallest W that holds so many positions, at most `length`."""
    return min(_smallest(_WINDOWS, positions), length)


def _smallest(sizes: tuple[int, ...], least: int) -> int:
    return next((size for size in sizes if size >= least), bucket(least, sizes[-1]))


def bucket(size: int, least: int = 16) -> int:
    """Return the smallest of least x {1, 1.5, 2, 3, 4, 6, 8, ...} that holds `size`."""
    top = least
    while top < size:
        if top + top // 2 >= size:
            return top + top // 2
        top *= 2
    return top


def coarse(size: int, least: int, factor: int = 4) -> int:
    """Return the smallest of least x {1, factor, factor^2, ...} that holds `size`."""
    top = least
    while top < size:
        top *= factor
    return top


def multiple(size: int, of: int) -> int:
    """Round `size` up to a multiple."""
    return -(-size // of) * of
