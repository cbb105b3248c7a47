"""Run a search over the prompts of a batch, as many side by side as memory allows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.search.space import Space

# A gradient keeps about this many arrays of the size of an intervention.
KEPT_BY_GRADIENT = 8


def side_by_side(inputs: BatchEvaluator, circuits: int) -> int:
    """Return how many prompts with so many circuits each fit `chunk_bytes`; it divides B."""
    batch = len(inputs.rows)
    fit = batch * inputs.side_by_side() // (KEPT_BY_GRADIENT * circuits)
    return max(n for n in range(1, batch + 1) if batch % n == 0 and n <= max(1, fit))


def map_prompts(one: Callable[..., Any], chunk: int, space: Space, *arrays: Any) -> Any:
    """Apply `one(space, *arrays)` to every prompt, `chunk` side by side; each array is [B, ...]."""

    def of_prompt(parts: tuple[Any, ...]) -> Any:
        return one(Space(space.model, *parts[0]), *parts[1])

    return jax.lax.map(of_prompt, (tuple(space[1:]), arrays), batch_size=chunk)
