"""What every pass of pruning works on, as one value.

Shapes: B batch, M corruptions, N occurrences, R table rows, K members of a set, L layers,
T positions, D model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pie_jax.kernels import Writes, removal_delta
from pie_jax.models.transformer import Transformer
from pie_jax.prune.metrics import Prompt


class Problem(NamedTuple):
    """One prompt, what is active on it and what that writes; of a batch, [B, ...] but for the
    shared `model` and `table`.

    `prompt` the clean one; `table` [R, D] decoder rows; `writes` where each of N occurrences
    writes; `delta` [M, N] its change of activation from each corrupted prompt to the clean one.
    """

    model: Transformer
    prompt: Prompt
    table: Float[Array, "R D"]
    writes: Writes
    delta: Float[Array, "*B M N"]

    @property
    def sizes(self) -> tuple[int, int]:
        """Return L and T."""
        return self.model.config.num_layers, self.prompt.tokens.shape[-1]

    def removed(
        self, delta: Float[Array, " N"], members: Int[Array, " K"]
    ) -> Float[Array, "L T D"]:
        """Return the `mlp_delta` that removes a set of one prompt's occurrences."""
        return removal_delta(self.table, self.writes, delta, members, *self.sizes)

    def no_change(self) -> Float[Array, "L T D"]:
        """Return an `mlp_delta` of zeros."""
        return jnp.zeros((*self.sizes, self.model.config.d_model), jnp.float32)


_BATCHED: Any = Problem(model=None, prompt=0, table=None, writes=0, delta=0)  # type: ignore[arg-type]


def over_prompts(one: Callable[..., Any], problem: Problem, *arrays: Any) -> Any:
    """Apply `one(problem, *arrays)` to every prompt of a batch; each array is [B, ...]."""
    return jax.vmap(one, (_BATCHED, *(0 for _ in arrays)))(problem, *arrays)


def mean_over_corruptions(one: Callable[..., Any], delta: Float[Array, "M N"], *arrays: Any) -> Any:
    """Return the mean of `one(delta [N], *arrays)` over corruptions; each array is [M, ...]."""
    each = jax.vmap(one)(delta, *arrays)
    return jax.tree.map(lambda x: x.mean(axis=0), each)
