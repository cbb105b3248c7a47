"""The loop of training: the model's activations streamed through step after step."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from pie_jax.models.transformer import Transformer
from pie_jax.transcoders.training.data import Feed, Windows
from pie_jax.transcoders.training.options import TrainOptions
from pie_jax.transcoders.training.placement import first_state, revive
from pie_jax.transcoders.training.state import Form, Scales, TrainState, measure_scales, normalise
from pie_jax.transcoders.training.step import Metrics, train_step
from pie_jax.transcoders.training.store import Checkpoints
from pie_jax.transcoders.training.stream import stream

# Called with the step reached, the number of steps, and the metrics of the last batch.
Progress = Callable[[int, int, dict[str, float]], None]

_FIRST_BATCHES = 4  # for the scales and the first features
_PROGRESS_EVERY = 10  # steps; reading a metric waits for the device


class Reached(NamedTuple):
    """What a checkpoint holds; `tokens` were trained on in `seconds`, over all attempts."""

    state: TrainState
    scales: Scales
    tokens: int
    seconds: float


class Trainer:
    """The loop over the steps; what it computes depends on the windows and options alone."""

    def __init__(self, transformer: Transformer, windows: Windows, options: TrainOptions):
        self._transformer, self._windows, self._options = transformer, windows, options
        self._key = jax.random.key(options.seed)

    def run(self, checkpoints: Checkpoints, progress: Progress | None = None) -> Reached:
        """Train from the newest checkpoint, or from the start, to the last step."""
        options, steps = self._options, self._options.steps
        like = jax.eval_shape(self._begin)._replace(tokens=0, seconds=0.0)
        step, reached = checkpoints.newest(like) or (0, self._begin())
        state, scales, tokens, seconds = reached
        began, before = time.monotonic(), tokens
        started = began - seconds
        while step < steps:
            state, metrics, counted = self._step(step, state, scales)
            step, tokens = step + 1, tokens + counted
            if progress is not None and (step % _PROGRESS_EVERY == 0 or step == steps):
                described = _describe(state, metrics, options)
                rate = (tokens - before) / (time.monotonic() - began)
                progress(step, steps, {**described, "tokens_per_second": rate})
            if step % options.checkpoint_every == 0 or step == steps:
                reached = Reached(state, scales, tokens, time.monotonic() - started)
                checkpoints.save(step, reached)
        return reached

    def _step(
        self, step: int, state: TrainState, scales: Scales
    ) -> tuple[TrainState, Metrics, int]:
        options, feed = self._options, self._windows.batch(step)
        counted = int(feed.counts.sum())
        if options.revives(step):
            key = jax.random.fold_in(self._key, step)
            state = _revive(
                self._transformer, scales, feed, state, key, options.dead_after, options.form
            )
        l0, rate = options.target_l0(step), np.float32(options.rate(step))
        state, metrics = _update(self._transformer, scales, feed, state, l0, rate, options.form)
        return state, metrics, counted

    def _begin(self) -> Reached:
        options = self._options
        feed = self._windows.batch(0, _FIRST_BATCHES)
        l0, size = options.target_l0(0), options.features
        state, scales = _first(self._transformer, feed, self._key, size, l0, options.form)
        return Reached(state, scales, tokens=0, seconds=0.0)


@partial(jax.jit, static_argnames=("features", "form"))
def _first(
    transformer: Transformer,
    feed: Feed,
    key: PRNGKeyArray,
    features: int,
    l0: Float[Array, "..."],
    form: Form,
) -> tuple[TrainState, Scales]:
    streamed = stream(transformer, feed)
    scales = measure_scales(*streamed)
    batch = normalise(scales, *streamed)
    return first_state(features, batch, l0, key, form), scales


@partial(jax.jit, donate_argnames="state", static_argnames="form")
def _update(
    transformer: Transformer,
    scales: Scales,
    feed: Feed,
    state: TrainState,
    l0: Float[Array, "..."],
    learning_rate: Float[Array, ""],
    form: Form,
) -> tuple[TrainState, Metrics]:
    batch = normalise(scales, *stream(transformer, feed))
    return train_step(state, batch, l0, learning_rate, form)


@partial(jax.jit, donate_argnames="state", static_argnames=("after", "form"))
def _revive(
    transformer: Transformer,
    scales: Scales,
    feed: Feed,
    state: TrainState,
    key: PRNGKeyArray,
    after: int,
    form: Form,
) -> TrainState:
    batch = normalise(scales, *stream(transformer, feed))
    return revive(state, batch, state.idle >= after, key, form)


def _describe(state: TrainState, metrics: Metrics, options: TrainOptions) -> dict[str, float]:
    return {
        "explained_variance": 1 - float(metrics.unexplained.mean()),
        "l0": float(metrics.l0.mean()),
        "dead_share": float((state.idle >= options.dead_after).mean()),
    }
