"""Records of one feature in stages II and III: windows of text, statistics, an explanation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np


class FeatureKey(NamedTuple):
    """A feature's place in the transcoder."""

    layer: int
    feature: int


class Window(NamedTuple):
    """A piece of corpus text with one feature's activations.

    `index` the window's number in the corpus pass, the same for every feature; `tokens` [T] ids
    with BOS in front; `activations` [T], 0 at BOS and padding.
    """

    index: int  # type: ignore[assignment]  # not a tuple method here
    tokens: np.ndarray
    activations: np.ndarray

    @property
    def maximum(self) -> float:
        """Return the window's activation: its largest over real tokens."""
        return float(self.activations.max(initial=0.0))


@dataclass(frozen=True)
class FeatureExamples:
    """What one pass over a corpus found for one feature.

    `top` windows by falling maximum; `deciles` ten groups of windows by where their maximum lies
    in (0, `maximum`], lowest first; `inactive` windows where it never fires. `for_explaining` and
    `for_scoring` are disjoint sets of window indices, drawn from the feature's own seed.
    `histogram` counts active tokens in equal steps of (0, `maximum`]. `neighbours` are features of
    the same layer by cosine of their decoders.
    """

    key: FeatureKey
    tokens_seen: int
    tokens_active: int
    maximum: float
    histogram: np.ndarray
    top: tuple[Window, ...]
    deciles: tuple[tuple[Window, ...], ...]
    inactive: tuple[Window, ...]
    neighbours: tuple[tuple[int, float], ...]
    for_explaining: frozenset[int]
    for_scoring: frozenset[int]

    @property
    def frequency(self) -> float | None:
        """Return the share of tokens on which the feature fires; None before any was seen."""
        return self.tokens_active / self.tokens_seen if self.tokens_seen else None

    def explaining(self) -> tuple[Window, ...]:
        """Return the activating windows that an explainer may see, highest first."""
        return self._chosen(self.for_explaining)

    def scoring(self) -> tuple[Window, ...]:
        """Return the activating windows kept aside for scoring, highest first."""
        return self._chosen(self.for_scoring)

    def _chosen(self, indices: frozenset[int]) -> tuple[Window, ...]:
        every = {w.index: w for group in (self.top, *self.deciles) for w in group}
        chosen = [window for index, window in every.items() if index in indices]
        return tuple(sorted(chosen, key=lambda window: (-window.maximum, window.index)))

    def inactive_for(self, indices: frozenset[int]) -> tuple[Window, ...]:
        """Return the non-activating windows of one of the two disjoint sets."""
        return tuple(window for window in self.inactive if window.index in indices)


@dataclass(frozen=True)
class Explanation:
    """A feature's explanation, or why there is none.

    `status` is `ok` or a short reason (`no-examples`, `failed`, `refused`, `truncated`, ...);
    `text` is None unless it is `ok`. `cost` is in the currency of the prices given, None where no
    price is known. `example_ids` are the windows that the explainer saw.
    """

    key: FeatureKey
    text: str | None
    explainer: str
    model: str | None = None
    status: str = "ok"
    cost: float | None = None
    example_ids: tuple[int, ...] = field(default=())
