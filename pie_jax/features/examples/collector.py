"""The state of a pass over a corpus: bounded, and the same however the corpus is split.

Shapes: B windows in a batch, T positions, n features, E entries.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pie_jax.features.examples.hashing import content_hash, feature_seeds, mix
from pie_jax.features.examples.histogram import Statistics, bin_of, octave
from pie_jax.features.examples.options import ExampleOptions
from pie_jax.features.examples.reservoir import Entries, concatenate, keep_first, no_entries
from pie_jax.features.records import FeatureKey

# Groups of a feature's windows by their maximum, in (0, R] of the power of two above it; they
# fold like the histogram's fine bins, and are regrouped to deciles of the range at the end.
BINS = 32
_ANY = np.iinfo(np.uint64).max
_LEAST_PENDING = 20_000
_LEAST_TOKENS = 2_000


class Collector:
    """Statistics, and three tables of windows: `top`, `sampled` by maximum, and `inactive`."""

    def __init__(self, keys: Sequence[FeatureKey], options: ExampleOptions):
        self.keys = [FeatureKey(*key) for key in keys]
        self.options = options
        self.seeds = feature_seeds(self.keys, options.seed)
        self.statistics = Statistics.empty(len(self.keys))
        self.windows = 0
        self.top = no_entries(options.window)
        self.sampled = no_entries(options.window)
        self.inactive = no_entries(0)
        # The tokens of every window that an entry names, by the window's number.
        self.index = np.zeros(0, np.int64)
        self.tokens = np.zeros((0, options.window), np.int32)
        self.length = np.zeros(0, np.int32)
        self._clear()

    def _clear(self) -> None:
        count = len(self.keys)
        self._pending: dict[str, list[Entries]] = {"top": [], "sampled": [], "inactive": []}
        self._new_tokens: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._least_top = np.zeros(count, np.float32)
        self._most_sampled = np.full((count, BINS), _ANY)
        self._most_inactive = np.full(count, _ANY)
        self._sampled_octave = octave(self.statistics.maximum)

    def update(
        self, tokens: np.ndarray, length: np.ndarray, index: np.ndarray, activations: np.ndarray
    ) -> None:
        """Add a batch: tokens [B, T], length [B], window numbers [B], activations [B, T, n]."""
        real = length > 0
        tokens, length, index, activations = (
            array[real] for array in (tokens, length, index, activations)
        )
        where = np.nonzero(activations > 0)
        counted = (np.arange(tokens.shape[1]) < length[:, None]) & (tokens != tokens[:, :1])
        self.statistics.add(int(counted.sum()), where[2], activations[where])
        self.windows += len(index)
        priority = mix(content_hash(tokens, length)[:, None] ^ self.seeds)
        maximum = activations.max(axis=1, initial=0.0)

        def entries(chosen: np.ndarray, kept: bool) -> Entries:
            b, f = np.nonzero(chosen)
            rows = activations[b, :, f] if kept else np.zeros((len(b), 0), np.float32)
            return Entries(f.astype(np.int32), priority[b, f], index[b], maximum[b, f], rows)

        fires = maximum > 0
        named = np.zeros(len(index), bool)
        for name, chosen in (
            ("top", fires & (maximum >= self._least_top)),
            ("sampled", fires & (priority <= self._most_by_bin(maximum))),
            ("inactive", ~fires & (priority <= self._most_inactive)),
        ):
            self._pending[name].append(entries(chosen, kept=name != "inactive"))
            named |= chosen.any(axis=1)
        self._new_tokens.append((index[named], tokens[named], length[named]))
        if self._overflows():
            self.compact()

    def _most_by_bin(self, maximum: np.ndarray) -> np.ndarray:
        high = octave(self.statistics.maximum)
        # A feature whose bins have been folded since has no bound until the next compaction.
        self._most_sampled[high != self._sampled_octave] = _ANY
        place = np.maximum(bin_of(maximum, high, BINS), 0)
        return self._most_sampled[np.arange(len(self.keys)), place]

    def _overflows(self) -> bool:
        waiting = sum(len(e.window) for parts in self._pending.values() for e in parts)
        kept = sum(len(e.window) for e in (self.top, self.sampled, self.inactive))
        texts = sum(len(index) for index, _, _ in self._new_tokens)
        return waiting > max(_LEAST_PENDING, kept // 2) or texts > max(
            _LEAST_TOKENS, len(self.index) // 2
        )

    def compact(self) -> None:
        """Keep what the options ask for and drop the rest."""
        options, pending, new = self.options, self._pending, self._new_tokens
        self._clear()
        top = concatenate([self.top, *pending["top"]])
        kept = keep_first(top, top.feature, options.top, by_maximum=True)
        self.top = kept.entries
        self._least_top[kept.full] = kept.last_of_full.maximum
        sampled = concatenate([self.sampled, *pending["sampled"]])
        group = sampled.feature * np.int64(BINS) + bin_of(
            sampled.maximum, self._sampled_octave[sampled.feature], BINS
        )
        kept = keep_first(sampled, group, options.per_decile, by_maximum=False)
        self.sampled = kept.entries
        self._most_sampled.reshape(-1)[kept.full] = kept.last_of_full.priority
        inactive = concatenate([self.inactive, *pending["inactive"]])
        kept = keep_first(inactive, inactive.feature, options.inactive, by_maximum=False)
        self.inactive = kept.entries
        self._most_inactive[kept.full] = kept.last_of_full.priority
        self._keep_tokens(new)

    def _keep_tokens(self, new: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
        index, tokens, length = (
            np.concatenate(parts)
            for parts in zip((self.index, self.tokens, self.length), *new, strict=True)
        )
        needed = np.unique(
            np.concatenate([e.window for e in (self.top, self.sampled, self.inactive)])
        )
        known, first = np.unique(index, return_index=True)
        first = first[np.isin(known, needed)]
        self.index, self.tokens, self.length = index[first], tokens[first], length[first]

    def text(self, index: int) -> np.ndarray:
        """Return the real tokens of a window that an entry names."""
        place = int(np.searchsorted(self.index, index))
        return self.tokens[place, : self.length[place]]

    @property
    def nbytes(self) -> int:
        """Return the memory of what is kept, after a compaction."""
        tables = sum(e.nbytes for e in (self.top, self.sampled, self.inactive))
        return tables + self.index.nbytes + self.tokens.nbytes + self.statistics.fine.nbytes


def merge(one: Collector, two: Collector) -> Collector:
    """Return what a pass over both corpora finds; in any order, and however often it is split."""
    if (one.keys, one.options) != (two.keys, two.options):
        raise ValueError("two collectors of other features or options cannot be merged")
    out = Collector(one.keys, one.options)
    out.statistics = one.statistics.merged(two.statistics)
    out.windows = one.windows + two.windows
    for part in (one, two):
        part.compact()
        for name in ("top", "sampled", "inactive"):
            out._pending[name].append(getattr(part, name))
        out._new_tokens.append((part.index, part.tokens, part.length))
    out.compact()
    return out
