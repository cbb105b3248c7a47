"""One batch through the whole pruning stage, to flat columns of numbers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np

from pie_jax.kernels import Writes
from pie_jax.mesh import put
from pie_jax.models.loader import LanguageModel
from pie_jax.models.transformer import Transformer
from pie_jax.programs import program
from pie_jax.prune.batches import PairBatch
from pie_jax.prune.corruptions import found_and_judged, rest_at_zero
from pie_jax.prune.inputs import PruneInputs
from pie_jax.prune.methods import METHODS, Selection, run_method
from pie_jax.prune.metrics import METRICS, Prompt
from pie_jax.prune.occurrences import DecoderTable, OccurrenceFinder, read_rows
from pie_jax.prune.options import PruneOptions
from pie_jax.prune.passes import Reading, read_whole, read_windows
from pie_jax.prune.problem import Problem
from pie_jax.prune.selection import NOBODY
from pie_jax.transcoders.first_positions import zeroed_positions
from pie_jax.transcoders.stored import Transcoder

# A table as columns of equal length.
Columns = dict[str, np.ndarray]
_UNDEFINED_BELOW = 1e-10


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

    def measure(self, batch: PairBatch, inputs: PruneInputs) -> dict[str, Columns]:
        """Return what `run` does, for a batch that is prepared."""
        inputs, judged = found_and_judged(inputs)
        options = self.options
        if not self._started:
            self._started = True
            judged.compile_behaviour(
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
            behaviour = self._behaviour(judged, selections, batch.real)
        return {
            "scores": self._scores(inputs, scores, batch.real),
            "selections": self._selections(inputs, selections, batch.real),
            "behaviour": behaviour,
        }

    def prepare(self, batch: PairBatch) -> PruneInputs:
        """Encode both runs of a batch and read the decoder rows that it needs."""
        with self.stage("encode"):
            prompts, reading = self._read(batch)
            zeroed = zeroed_positions(self._language_model, batch.clean)
            occurrences = self._finder.find(reading.clean, reading.corrupted, batch.length, zeroed)
        with self.stage("decoder rows"):
            decoder = read_rows(self._transcoder, occurrences)
        return PruneInputs(
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

    def _scores(self, inputs: PruneInputs, scores: Columns, real: int) -> Columns:
        occurrences = inputs.occurrences
        use = occurrences.valid[:real]
        prompt = np.broadcast_to(inputs.rows[:real, None], use.shape)
        columns = {
            "prompt": prompt,
            "layer": occurrences.layer,
            "position": occurrences.position,
            "feature": occurrences.feature,
            "activation_clean": occurrences.clean,
            "activation_corrupted": occurrences.corrupted.mean(axis=1),
            **{name: score.astype(np.float32) for name, score in scores.items()},
        }
        return {name: column[:real][use] for name, column in columns.items()}

    def _selections(
        self, inputs: PruneInputs, selections: list[list[Selection]], real: int
    ) -> Columns:
        occurrences = inputs.occurrences
        parts: list[Columns] = []
        for index, method in enumerate(selections):
            for budget, selection in zip(self.options.budgets, method, strict=True):
                kept = selection.kept[:real]
                use = kept != NOBODY
                prompt, rank = np.nonzero(use)
                at = (prompt, kept[use])
                parts.append(
                    {
                        "prompt": inputs.rows[prompt],
                        "method": np.full(len(rank), index, np.int16),
                        "budget": np.full(len(rank), budget, np.int32),
                        "layer": occurrences.layer[at],
                        "position": occurrences.position[at],
                        "feature": occurrences.feature[at],
                        "rank": rank.astype(np.int32) + 1,
                        "score": selection.score[:real][use],
                    }
                )
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _behaviour(
        self, inputs: PruneInputs, selections: list[list[Selection]], real: int
    ) -> Columns:
        budgets = self.options.budgets
        widest = max(budgets)
        flat = [selection.kept for method in selections for selection in method]
        kept = np.stack(
            [np.pad(k, ((0, 0), (0, widest - k.shape[1])), constant_values=NOBODY) for k in flat],
            axis=1,
        )
        circuit, complement = inputs.behaviour(kept)
        clean, null = inputs.ends
        shape = (real, len(selections), len(budgets))
        change = clean - null.metric
        defined = np.abs(change) >= _UNDEFINED_BELOW
        divisor = np.where(defined, change, np.nan)[:, None]

        def share(metric: np.ndarray) -> np.ndarray:
            return (metric - null.metric[:, None]) / divisor

        def each(x: np.ndarray) -> np.ndarray:
            return np.broadcast_to(x[:real, None, None], shape)

        columns = {
            "prompt": each(inputs.rows),
            "method": np.broadcast_to(np.arange(shape[1], dtype=np.int16)[:, None], shape),
            "budget": np.broadcast_to(np.array(budgets, np.int32), shape),
            "kl_last": circuit.kl_last[:real],
            "kl_mean": circuit.kl_mean[:real],
            "top1_changed": circuit.top1_changed[:real],
            "metric_clean": each(clean),
            "metric_circuit": circuit.metric[:real],
            "metric_null": each(null.metric),
            "metric_complement": complement[:real],
            "faithfulness": share(circuit.metric)[:real],
            "completeness": share(complement)[:real],
            "kl_last_null": each(null.kl_last),
            "kl_zero": self._kl_zero(inputs, kept, circuit.kl_last)[:real],
        }
        return {name: np.asarray(column).reshape(-1) for name, column in columns.items()}

    def _kl_zero(self, inputs: PruneInputs, kept: np.ndarray, kl_last: np.ndarray) -> np.ndarray:
        """Return the KL with what is not kept at zero, [B, S]; NaN where it is not asked for."""
        if not self.options.judge_zero_features:
            return np.full_like(kl_last, np.nan)
        if self.options.corruption == "zero-features":
            return kl_last
        return rest_at_zero(inputs).kl_last(kept)

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
