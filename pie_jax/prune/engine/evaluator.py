"""What a pruning method may ask for about one batch; each thing is computed once."""

from __future__ import annotations

from functools import cached_property

import jax
import numpy as np

from pie_jax.devices.mesh import fetch, mesh_of, put
from pie_jax.devices.shapes import multiple
from pie_jax.models.gradient_rules import GRADIENT_RULES
from pie_jax.prune.batch.metrics import METRICS, Metric, Prompt
from pie_jax.prune.batch.occurrences import Occurrences
from pie_jax.prune.batch.problem import Problem
from pie_jax.prune.engine.kl import Behaviour, circuit_behaviour, circuit_kl_last
from pie_jax.prune.engine.passes import (
    attribute,
    clean_metric,
    metric_gradients,
    removal_metrics,
    total_writes,
)
from pie_jax.prune.engine.per_shard import per_shard
from pie_jax.prune.engine.removals.plan import Starts, distinct
from pie_jax.prune.engine.removals.sharded import cone_effects
from pie_jax.prune.engine.selection import PADDING
from pie_jax.prune.options import PruneOptions

# Bounds the residual streams of removals that wait for their next layer.
_STREAM_BYTES = 1 << 28
_LEAST_ROWS = 128


class BatchEvaluator:
    """One batch of prompts with its occurrences: scores, exact effects and behaviour on request.

    Shapes: B prompts, N occurrences each (padded), S sets, K members. `prompts` are whole ones,
    those of `problem` may start at its window; `rows` [B] are the prompts' places in the input,
    from which random draws are seeded.
    """

    def __init__(
        self,
        problem: Problem,
        prompts: Prompt,
        occurrences: Occurrences,
        rows: np.ndarray,
        options: PruneOptions,
    ):
        self.problem, self.prompts, self.occurrences = problem, prompts, occurrences
        self.rows, self.options = rows, options
        self._scores: dict[str, np.ndarray] = {}
        self._ends: tuple[np.ndarray, Behaviour] | None = None

    @property
    def metric(self) -> Metric:
        """Return the metric asked for."""
        return METRICS[self.options.metric]

    def attribution(self, rule: str) -> np.ndarray:
        """Return gradient x write x change under a gradient rule, [B, N]; padding is 0."""
        if rule not in self._scores:
            _, gradient = metric_gradients(self.problem, self.metric, GRADIENT_RULES[rule])
            self._scores[rule] = fetch(attribute(self.problem, gradient))
        return self._scores[rule]

    def generator(self, index: int, salt: str) -> np.random.Generator:
        """Return the random numbers of one prompt, whatever batch it is in."""
        seed = [self.options.seed, int(self.rows[index]), *salt.encode()]
        return np.random.default_rng(seed)

    @cached_property
    def total(self) -> jax.Array:
        """Return what all occurrences write together, [B, M, L, T, D]."""
        return per_shard(total_writes, self.problem)

    @property
    def ends(self) -> tuple[np.ndarray, Behaviour]:
        """Return the clean metric [B] and the behaviour with every occurrence removed."""
        if self._ends is None:
            self.behaviour(np.zeros((len(self.rows), 0, 1), np.int32))
            assert self._ends is not None
        return self._ends

    @cached_property
    def _clean(self) -> np.ndarray:
        """Return the metric with nothing removed, [B]."""
        return fetch(clean_metric(self.problem, self.metric))

    def removal_effects(self, sets: np.ndarray) -> np.ndarray:
        """Return m_clean - m(set removed) for sets [B, S, K] of occurrences, [B, S]."""
        clean = self._clean
        if self.problem.window is not None:
            return self._cone_effects(sets, clean)
        padded, chunk = self._chunks(sets)
        values = removal_metrics(self.problem, self.put(padded), self.metric, chunk)
        return clean[:, None] - fetch(values)[:, : sets.shape[1]]

    def _cone_effects(self, sets: np.ndarray, clean: np.ndarray) -> np.ndarray:
        """Return the effects of sets, each set once and computed where it changes anything."""
        sets, same = distinct(sets)
        size = self._sets_at_once(sets.shape[1])
        blocks = -(-sets.shape[1] // size)
        pad = blocks * size - sets.shape[1]
        padded = np.pad(sets, ((0, 0), (0, pad), (0, 0)), constant_values=PADDING)
        effects = np.zeros(padded.shape[:2], np.float32)
        for start in range(0, padded.shape[1], size):
            part = np.s_[:, start : start + size]
            effects[part] = cone_effects(
                self.problem, self._starts, padded[part], clean, self.metric, self._rows()
            )
        return np.take_along_axis(effects, same, axis=1)

    @cached_property
    def _starts(self) -> Starts:
        found, prompt = self.occurrences, self.problem.prompt
        return Starts(
            layer=found.layer,
            position=fetch(self.problem.writes.position),
            changes=(fetch(self.problem.delta) != 0).any(axis=1),
            last=fetch(prompt.length) - 1,
        )

    def _rows(self) -> int:
        """Return how many positions of removals run side by side.

        Few make chunks that start where their removals do; enough make a matrix product fast.
        """
        config = self.problem.model.config
        one = 4 * (4 * config.d_model + 3 * config.d_mlp)
        return max(_LEAST_ROWS, self.options.bytes_at_once() // (8 * one))

    def _sets_at_once(self, count: int) -> int:
        """Return how many sets of each prompt may have a stream in memory."""
        batch, versions, _ = self.problem.delta.shape
        one = 4 * batch * versions * self.problem.sizes[1] * self.problem.model.config.d_model
        parts = -(-count * one // _STREAM_BYTES)
        return -(-count // max(parts, 1))

    def compile_behaviour(self, circuits: int, members: int) -> None:
        """Compile what measures so many circuits of each prompt while something else is done."""
        if mesh_of(self.problem.delta) is not None:
            return
        batch, versions, _ = self.problem.delta.shape
        padded, chunk = self._circuits(np.full((batch, circuits, members), PADDING, np.int32))
        writes = (batch, versions, *self.problem.sizes, self.problem.model.config.d_model)
        total = jax.ShapeDtypeStruct(writes, np.float32)
        circuit_behaviour.ahead(self.problem, total, padded, self.metric, chunk)

    def behaviour(self, kept: np.ndarray) -> tuple[Behaviour, np.ndarray]:
        """Return the behaviour of the circuits [B, S, K], and the complements' metric [B, S].

        The empty set is measured beside them: it is the `ends`.
        """
        padded, chunk = self._circuits(kept)
        result, complement = circuit_behaviour(
            self.problem, self.total, self.put(padded), self.metric, chunk
        )
        circuits = jax.tree.map(fetch, result)
        rest = fetch(complement)
        self._ends = rest[:, 0], jax.tree.map(lambda x: x[:, 0], circuits)
        own = np.s_[:, 1 : 1 + kept.shape[1]]
        return jax.tree.map(lambda x: x[own], circuits), rest[own]

    def _circuits(self, kept: np.ndarray) -> tuple[np.ndarray, int]:
        """Return circuits with the empty one in front, in whole chunks."""
        empty = np.full_like(kept, PADDING, shape=(len(kept), 1, kept.shape[2]))
        return self._chunks(np.concatenate([empty, kept], axis=1), runs=2)

    def kl_last(self, kept: np.ndarray) -> np.ndarray:
        """Return the KL of circuits [B, S, K] at the last position in nats, [B, S]."""
        padded, chunk = self._chunks(kept)
        kl = circuit_kl_last(self.problem, self.total, self.put(padded), chunk)
        return fetch(kl)[:, : kept.shape[1]]

    def put(self, values: np.ndarray) -> jax.Array:
        """Move a host array [B, ...] to the devices that hold the batch; `mesh.fetch` is back."""
        return put(mesh_of(self.problem.delta), values)

    def side_by_side(self) -> int:
        """Return how many interventions a prompt fit `chunk_bytes` at once."""
        layers, length = self.problem.sizes
        config = self.problem.model.config
        batch, corruptions, _ = self.problem.delta.shape
        # The streams of all layers, and logits at every position.
        one = 4 * batch * corruptions * length * max(layers * config.d_model, config.vocab_size)
        return max(1, self.options.bytes_at_once() // one)

    def _chunks(self, sets: np.ndarray, runs: int = 1) -> tuple[np.ndarray, int]:
        """Pad S to a multiple of the chunk, with empty sets; each set takes so many `runs`."""
        count = sets.shape[1]
        parts = -(-count * runs // self.side_by_side())
        chunk = -(-count // parts)
        pad = multiple(count, chunk) - count
        return np.pad(sets, ((0, 0), (0, pad), (0, 0)), constant_values=PADDING), chunk
