"""One shard's pass over a corpus, which saves its state and goes on from a saved one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from pie_jax.errors import PieError
from pie_jax.features.activations import FeatureReader
from pie_jax.features.corpus.windows import Place, WindowBatch, window_batches
from pie_jax.features.examples.checkpoint import load_state, save_state
from pie_jax.features.examples.collector import Collector
from pie_jax.features.examples.options import ExampleOptions
from pie_jax.files.corpus.documents import Corpus
from pie_jax.models.tokenizer import Tokenizer

# done, total, what is being done
Progress = Callable[[int, int, str], None]


@dataclass
class CorpusPass:
    """What is read, and where the state is kept: a file, or None. `config` tells passes apart.

    `seconds` and `tokens` are of this call: what a resumed pass found done is not in them.
    """

    reader: FeatureReader
    tokenizer: Tokenizer
    corpus: Corpus
    options: ExampleOptions
    shard: tuple[int, int] = (0, 1)
    state: Path | None = None
    config: dict[str, Any] = field(default_factory=dict)
    progress: Progress | None = None
    save_every: int = 100
    seconds: float = 0.0
    tokens: int = 0

    def collect(self) -> Collector:
        """Return what the whole shard leads to."""
        collector = Collector(self.reader.keys, self.options)
        place, done = Place(), False
        if self.state is not None and self.state.exists():
            place, done = load_state(self.state, collector, self.config)
        if done:
            return collector
        before, started = collector.statistics.tokens, time.perf_counter()
        for number, (batch, activations) in enumerate(self._activations(place), start=1):
            _check_finite(batch, activations)
            collector.update(batch.tokens, batch.length, batch.number, activations)
            self.seconds = time.perf_counter() - started
            self.tokens = collector.statistics.tokens - before
            self._report()
            if self.state is not None and number % self.save_every == 0:
                save_state(self.state, collector, self.config, batch.after, done=False)
        if self.state is not None:
            save_state(self.state, collector, self.config, Place(), done=True)
        return collector

    def _activations(self, start: Place) -> Iterator[tuple[WindowBatch, np.ndarray]]:
        """Yield each batch with its activations, one batch behind what the device computes."""
        batches = window_batches(
            self.corpus,
            self.tokenizer,
            window=self.options.window,
            size=self.options.batch_size,
            shard=self.shard,
            start=start,
            most=self.options.max_windows,
        )
        count = len(self.reader.keys)
        sent = ((batch, self.reader.dispatch(batch.tokens, batch.length)) for batch in batches)
        for (batch, ahead), _ in pairwise(_with_end(sent)):
            yield batch, np.asarray(ahead)[..., :count]

    def _report(self) -> None:
        if self.progress is not None:
            done, total, unit = self.corpus.position()
            self.progress(done, total, f"{unit}, {self.tokens / self.seconds:,.0f} tokens/s")


def _with_end(items: Iterator[Any]) -> Iterator[Any]:
    yield from items
    yield None, None


def _check_finite(batch: WindowBatch, activations: np.ndarray) -> None:
    finite = np.isfinite(activations).all(axis=(1, 2))
    if not finite.all():
        raise PieError(
            f"window {batch.number[~finite][0]} of the corpus leads to activations that are not "
            "finite; are the weights right for dtype and model?"
        )
