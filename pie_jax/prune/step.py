"""One batch through the whole pruning stage, to flat columns of numbers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np

from pie_jax.devices.mesh import put
from pie_jax.devices.programs import program
from pie_jax.kernels import Writes
from pie_jax.models.loader import LanguageModel
from pie_jax.models.transformer import Transformer
from pie_jax.prune.batch.metrics import METRICS, Prompt
from pie_jax.prune.batch.occurrences import DecoderTable, OccurrenceFinder, read_rows
from pie_jax.prune.batch.pairs import PairBatch
from pie_jax.prune.batch.problem import Problem
from pie_jax.prune.engine.corruptions import seen_and_held_out
from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.engine.passes import Reading, read_whole, read_windows
from pie_jax.prune.methods import METHODS, run_method
from pie_jax.prune.options import PruneOptions
from pie_jax.prune.results.columns import (
    Columns,
    behaviour_columns,
    score_columns,
    selection_columns,
)
from pie_jax.transcoders.first_positions import zeroed_positions
from pie_jax.transcoders.store import Transcoder


class Pruner:
    """Runs batches of pairs through model, transcoder, methods and measures."""

    def __init__(self, model: LanguageModel, transcoder: Transcoder, options: PruneOptions):
        self.options = options
        self.seconds: dict[str, float] = {}
        self._model, self._language_model = model.transformer, model
        self._transcoder = transcoder
        self.model_config = model.config
        self._finder = OccurrenceFinder(transcoder)
        self._started = False

    def run(self, batch: PairBatch) -> dict[str, Columns]:
        """Return the columns of `scores`, `selections` and `behaviour` for one batch."""
        return self.measure(batch, self.prepare(batch))

    def measure(self, batch: PairBatch, inputs: BatchEvaluator) -> dict[str, Columns]:
        """Return what `run` does, for a batch that is prepared."""
        inputs, held_out = seen_and_held_out(inputs)
        options = self.options
        if not self._started:
            self._started = True
            held_out.compile_behaviour(
                len(options.methods) * len(options.budgets), max(options.budgets)
            )
        scores = {}
        selections = []
        for name in options.methods:
            with self.stage(f"method {name}"):
                method = METHODS[name]
                if method.scores is not None:
                    scores[name] = method.scores(inputs)
                selections.append(run_method(method, inputs, options.budgets, scores.get(name)))
        with self.stage("behaviour"):
            behaviour = behaviour_columns(held_out, selections, batch.real)
        return {
            "scores": score_columns(inputs, scores, batch.real),
            "selections": selection_columns(inputs, selections, batch.real),
            "behaviour": behaviour,
        }

    def prepare(self, batch: PairBatch) -> BatchEvaluator:
        """Encode both runs of a batch and read the decoder rows that it needs."""
        with self.stage("encode"):
            prompts, reading = self._read(batch)
            zeroed = zeroed_positions(self._language_model, batch.clean)
            occurrences = self._finder.find(reading.clean, reading.corrupted, batch.length, zeroed)
        with self.stage("decoder rows"):
            decoder = read_rows(self._transcoder, occurrences)
        return BatchEvaluator(
            _problem(self._model, prompts, reading, decoder, self._put(occurrences.delta)),
            prompts,
            occurrences,
            batch.rows,
            self.options,
        )

    def _read(self, batch: PairBatch) -> tuple[Prompt, Reading]:
        """Run the model on both versions of each prompt."""
        prompts = Prompt(
            *map(self._put, (batch.clean, batch.length, batch.target, batch.distractor))
        )
        both = self.options.corruption == "corrupted-prompt"
        corrupted = self._put(batch.corrupted) if both else None
        site, metric = self._transcoder.config.input_site, METRICS[self.options.metric]
        if self.options.plain:
            return prompts, read_whole(self._model, prompts, corrupted, site)
        size = batch.window if both else batch.clean.shape[1]
        start = self._put(np.maximum(batch.length - size, 0))
        where = (start, size, site, metric)
        return prompts, read_windows(self._model, prompts, corrupted, *where)

    def _put(self, values: np.ndarray) -> jax.Array:
        return put(self._transcoder.mesh, values)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time that something takes to a stage's seconds; one thread a stage."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def _problem(
    model: Transformer,
    prompts: Prompt,
    reading: Reading,
    decoder: DecoderTable,
    delta: jax.Array,
) -> Problem:
    """Put a batch together; in a window, positions count from its start."""
    here, writes = reading.window, decoder.writes
    if here is not None:
        size = here.residual.shape[1]
        prompts, writes, delta = _inside(prompts, writes, delta, here.start, size)
    return Problem(
        model, prompts, decoder.table, decoder.tiles, writes, delta, reading.before, here
    )


@program("size")
def _inside(
    prompts: Prompt, writes: Writes, delta: jax.Array, start: jax.Array, size: int
) -> tuple[Prompt, Writes, jax.Array]:
    """Count positions from the start of a window; one program, as small ones compile one by one."""
    tokens = jax.vmap(lambda x, at: jax.lax.dynamic_slice_in_dim(x, at, size))
    prompts = prompts._replace(tokens=tokens(prompts.tokens, start), length=prompts.length - start)
    writes = writes._replace(position=writes.position - start[:, None])
    # Nothing changes before the window; what two programs round differently counts as equal.
    return prompts, writes, jnp.where(writes.position[:, None] >= 0, delta, 0.0)


def devices() -> list[str]:
    """Return the devices that the run uses, in words."""
    return [f"{device.platform}: {device.device_kind}" for device in jax.devices()]
