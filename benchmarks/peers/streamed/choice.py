"""Choice of the gradient-times-write form that moves fewer bytes: plain Python on sizes.

The counts are models of memory traffic, not measurements; docs/kernels.md says what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Form = Literal["gathered", "streamed"]


# A block's product with every (prompt, position) does a lot that nobody asked for, but as one
# matrix product. On a CPU it is faster than one row at a time from about one occurrence in this
# many (feature, prompt, position) triples.
_TRIPLES_PER_OCCURRENCE = 64


def bytes_moved(
    form: Form,
    occurrences: Sequence[int],
    features: int,
    widths: Sequence[int],
    row_bytes: int,
) -> int:
    """Return the bytes of decoder rows that a form reads over L source layers; ValueError where
    `occurrences` and `widths` [L] differ in length.

    `occurrences` [L] are the row sets that the gathered form reads: a layer's distinct features
    where a row is read once for all its occurrences, else all its occurrences. `widths` [L] are
    the target layers of each source layer.
    """
    if len(occurrences) != len(widths):
        raise ValueError(f"{len(occurrences)} counts of occurrences for {len(widths)} layers")
    sets = occurrences if form == "gathered" else [features] * len(widths)
    return row_bytes * sum(n * width for n, width in zip(sets, widths, strict=True))


def form(occurrences: Sequence[int], features: int, widths: Sequence[int], row_bytes: int) -> Form:
    """Return the form that moves fewer bytes, gathered if both move as many; see `bytes_moved`."""
    gathered = bytes_moved("gathered", occurrences, features, widths, row_bytes)
    streamed = bytes_moved("streamed", occurrences, features, widths, row_bytes)
    return "streamed" if streamed < gathered else "gathered"


def whole_block(occurrences: int, features: int, columns: int) -> bool:
    """Return whether the streamed form multiplies whole blocks with all B x T `columns`."""
    return occurrences * _TRIPLES_PER_OCCURRENCE >= features * columns
