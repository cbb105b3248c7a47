"""The data that every pass of pruning works on, as one value.

Shapes: B batch, M corruptions, N occurrences, R table rows, K members of a set, L layers,
T positions of a prompt, W positions of its window, D model.

Clean and corrupted prompts agree up to some position, before which nothing ever changes. A problem
with a `window` holds the positions from there on alone: W of them, counted from `window.start`.
Without one, W = T.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pie_jax.kernels import (
    Tiles,
    Writes,
    gradient_times_write,
    removal_delta,
    tiled_gradient_times_write,
    tiled_write,
    write,
)
from pie_jax.models.cached_prefix import CachedPrefix, run_changed
from pie_jax.models.gradient_rules import FULL, GradientRule
from pie_jax.models.transformer import Transformer
from pie_jax.prune.batch.metrics import Metric, Prompt


class Problem(NamedTuple):
    """One prompt, what is active on it and what that writes; of a batch, [B, ...] but for the
    shared `model`, `table` and `tiles`.

    `prompt` the clean one, [W]; `table` [R, D] decoder rows, in `tiles`; `writes` where each of N
    occurrences writes; `delta` [M, N] its change of activation from each corrupted prompt to the
    clean one; `before` the metric's share of the positions before the window; `window` None for
    whole prompts.
    """

    model: Transformer
    prompt: Prompt
    table: Float[Array, "R D"]
    tiles: Tiles
    writes: Writes
    delta: Float[Array, "*B M N"]
    before: Float[Array, "*B"]
    window: CachedPrefix | None = None

    @property
    def sizes(self) -> tuple[int, int]:
        """Return L and W."""
        return self.model.config.num_layers, self.prompt.tokens.shape[-1]

    def run(
        self, change: Float[Array, "L W D"] | None = None, rule: GradientRule = FULL
    ) -> Float[Array, "W D"]:
        """Return the last residual stream with `change` added to the MLP outputs."""
        if self.window is None:
            return self.model.streams(self.prompt.tokens, change, rule).residual
        if change is None:
            return self.window.residual
        return run_changed(self.model, self.window, change, rule)

    def clean(self) -> Float[Array, "W D"]:
        """Return the last residual stream of the clean run."""
        return self.run()

    def value(
        self, metric: Metric, residual: Float[Array, "W D"], rule: GradientRule = FULL
    ) -> Float[Array, ""]:
        """Return the metric of the whole prompt."""
        return self.before + metric.value(self.model, residual, self.prompt, rule)

    def length(self) -> Int[Array, ""]:
        """Return the length of the whole prompt, BOS included."""
        return self.prompt.length + (0 if self.window is None else self.window.start)

    def removed(
        self, delta: Float[Array, " N"], members: Int[Array, " K"]
    ) -> Float[Array, "L W D"]:
        """Return the `mlp_delta` that removes a set of one prompt's occurrences."""
        return removal_delta(self.table, self.writes, delta, members, *self.sizes)

    def product(self, gradient: Float[Array, "L W D"]) -> Float[Array, " N"]:
        """Return <row, gradient> of every occurrence, summed over its target layers."""
        # Row by row where the tiles are not what is fastest: on an H100 that reaches 43 to 131% of
        # the copy bandwidth, tiles 5% (benchmarks/results/h100).
        if self.window is None or jax.default_backend() == "gpu":
            return gradient_times_write(self.table, self.writes, gradient)
        return tiled_gradient_times_write(self.table, self.tiles, self.writes, gradient)

    def written(self, weight: Float[Array, " N"]) -> Float[Array, "L W D"]:
        """Return what occurrences write together, each times its weight."""
        if self.window is None:
            return write(self.table, self.writes, weight, *self.sizes)
        return tiled_write(self.table, self.tiles, self.writes, weight, *self.sizes)

    def no_change(self) -> Float[Array, "L W D"]:
        """Return an `mlp_delta` of zeros."""
        return jnp.zeros((*self.sizes, self.model.config.d_model), jnp.float32)


def over_prompts(one: Callable[..., Any], problem: Problem, *arrays: Any) -> Any:
    """Apply `one(problem, *arrays)` to every prompt of a batch; each array is [B, ...]."""
    batched: Any = Problem(
        model=None,  # type: ignore[arg-type]
        prompt=0,  # type: ignore[arg-type]
        table=None,  # type: ignore[arg-type]
        tiles=None,  # type: ignore[arg-type]
        writes=0,  # type: ignore[arg-type]
        delta=0,  # type: ignore[arg-type]
        before=0,  # type: ignore[arg-type]
        window=None if problem.window is None else 0,  # type: ignore[arg-type]
    )
    return jax.vmap(one, (batched, *(0 for _ in arrays)))(problem, *arrays)


def mean_over_corruptions(one: Callable[..., Any], delta: Float[Array, "M N"], *arrays: Any) -> Any:
    """Return the mean of `one(delta [N], *arrays)` over corruptions; each array is [M, ...]."""
    each = jax.vmap(one)(delta, *arrays)
    return jax.tree.map(lambda x: x.mean(axis=0), each)
