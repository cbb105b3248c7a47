"""The metric of a batch of prompts with many sets removed, each from where it changes anything.

Layers are the outer loop: a layer's weights are read once for every removal. Shapes as in
`prune.cones`; D model, T positions of a prompt, V positions that a chunk computes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pie_jax.devices.programs import program
from pie_jax.kernels import write_layer
from pie_jax.models.cached_prefix import places, window_layer
from pie_jax.models.layers import layer_of, scan_layers
from pie_jax.models.transformer import Block
from pie_jax.prune.batch.metrics import Metric, Prompt
from pie_jax.prune.batch.problem import Problem
from pie_jax.prune.engine.removals.plan import Cones


@program("width", "metric")
def cone_metrics(problem: Problem, cones: Cones, width: int, metric: Metric) -> Float[Array, "J C"]:
    """Return the metric of each prompt with each set removed; a batch with windows."""
    return jax.lax.cond(
        cones.real > 0,
        lambda: _cone_metrics(problem, cones, width, metric),
        lambda: jnp.zeros(cones.first.shape, jnp.float32),
    )


def _cone_metrics(problem: Problem, cones: Cones, width: int, metric: Metric) -> Array:
    config = problem.model.config
    sliding = jnp.asarray(config.sliding_layers or (False,) * config.num_layers)
    one = _Chunk(problem, cones, width)

    def layer(x: Array, inputs: tuple[Block, Array, Array]) -> tuple[Array, None]:
        block, slides, index = inputs

        def chunk(j: Array, x: Array) -> Array:
            return x.at[j].set(one.layer(j, x[j], block, slides, index))

        # The last layer follows below, at the positions that the metric reads alone.
        busy = jnp.where(index < config.num_layers - 1, cones.active[index], 0)
        return jax.lax.fori_loop(0, busy, chunk, x), None

    x = jnp.zeros((*cones.first.shape, width, config.d_model), jnp.float32)
    x, _ = scan_layers(layer, x, problem.model.blocks, sliding, jnp.arange(config.num_layers))
    last = layer_of(problem.model.blocks, jnp.int32(config.num_layers - 1))

    def finish(j: Array, values: Array) -> Array:
        return values.at[j].set(one.metric(j, x[j], last, sliding[-1], metric))

    return jax.lax.fori_loop(0, cones.real, finish, jnp.zeros(cones.first.shape, jnp.float32))


class _Chunk:
    """What the loops do to chunk j: C sets of one prompt, `width` positions of its window."""

    def __init__(self, problem: Problem, cones: Cones, width: int):
        assert problem.window is not None
        self.problem, self.cones, self.width = problem, cones, width
        self.window, self.model = problem.window, problem.model

    def layer(
        self, j: Array, x: Float[Array, "C V D"], block: Block, slides: Array, index: Array
    ) -> Float[Array, "C V D"]:
        """Run one layer; the stream leaves it without what is removed from its own MLP."""
        return self._run(j, self._entering(j, x, index), block, slides, index, None)

    def metric(
        self, j: Array, x: Float[Array, "C V D"], block: Block, slides: Array, metric: Metric
    ) -> Float[Array, " C"]:
        """Run the last layer where anything changed before it, and read the metric."""
        index = jnp.int32(self.model.config.num_layers - 1)
        b, first = self.cones.prompt[j], self.cones.first[j]
        last = self.problem.prompt.length[b] - 1 - self.cones.offset[j]
        clean = self._inside(j, self.window.residual[b])
        if metric.last_only:
            clean = jax.lax.dynamic_slice_in_dim(clean, last, 1)

        def run() -> Array:
            at = last if metric.last_only else None
            return self._run(j, self._entering(j, x, index), block, slides, index, at)

        def skip() -> Array:
            return jnp.broadcast_to(clean, (*first.shape, *clean.shape))

        out = jax.lax.cond(j < self.cones.active[index], run, skip)
        change = self._changes(j, index)
        if metric.last_only:
            change = jax.lax.dynamic_slice_in_dim(change, last, 1, axis=1)
        residual = jnp.where((first < index)[:, None, None], out, clean) + change
        return self._read(j, residual, metric)

    def _read(self, j: Array, residual: Float[Array, "C P D"], metric: Metric) -> Array:
        b, offset = self.cones.prompt[j], self.cones.offset[j]
        whole: Prompt = jax.tree.map(lambda array: array[b], self.problem.prompt)
        length = jnp.int32(1) if metric.last_only else whole.length - offset
        here = whole._replace(length=length)
        before = self.problem.before[b]
        if not metric.last_only:
            start = whole._replace(length=offset)
            before = before + metric.value(self.model, self.window.residual[b], start)
        value = jax.vmap(lambda one: metric.value(self.model, one, here))
        return before + value(residual)

    def _entering(self, j: Array, x: Array, index: Array) -> Float[Array, "C V D"]:
        """Return what enters a layer: the clean stream where nothing changed two layers ago, and
        what is removed from the MLP of the layer before."""
        started = self.cones.first[j] < index - 1
        clean = self._inside(j, self.window.entering[self.cones.prompt[j], index])
        return jnp.where(started[:, None, None], x, clean) + self._changes(j, index - 1)

    def _changes(self, j: Array, index: Array) -> Float[Array, "C V D"]:
        """Return what removal adds to the MLP of one layer."""
        b, members = self.cones.prompt[j], self.cones.members[j]
        there = members >= 0
        at = jnp.where(there, members, 0)
        writes = jax.tree.map(lambda array: array[b][at], self.problem.writes)
        writes = writes._replace(position=writes.position - self.cones.offset[j])
        delta = self.problem.delta[b, self.cones.corruption[j]][at]
        weight = jnp.where(there, -delta, 0.0)
        table, width = self.problem.table, self.width
        return jax.vmap(lambda w, x: write_layer(table, w, x, index, width))(writes, weight)

    def _run(
        self,
        j: Array,
        x: Float[Array, "C V D"],
        block: Block,
        slides: Array,
        index: Array,
        last: Int[Array, ""] | None,
    ) -> Float[Array, "C P D"]:
        b = self.cones.prompt[j]
        of = jax.tree.map(lambda array: array[b], self.window)
        where = places(self.model, of, self.cones.offset[j], self.width)
        keys, values = of.keys[index], of.values[index]

        def one(x: Array) -> Array:
            return window_layer(block, x, keys, values, where, slides, last=last)[0]

        return jax.vmap(one)(x)

    def _inside(self, j: Array, x: Float[Array, "W D"]) -> Float[Array, "V D"]:
        return jax.lax.dynamic_slice_in_dim(x, self.cones.offset[j], self.width)
