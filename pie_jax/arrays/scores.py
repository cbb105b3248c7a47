"""First-order scores of occurrences.

Shapes: T positions, N occurrences, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pie_jax.arrays.dictionary import Dictionary
from pie_jax.arrays.models import Model
from pie_jax.arrays.occurrences import Occurrences
from pie_jax.kernels import gradient_times_write
from pie_jax.prune.batch.metrics import Prompt

# Of a run's logits [T, V] and its prompt, one number.
Metric = Callable[[Float[Array, "T V"], Prompt], Float[Array, ""]]


def logit_difference(logits: Float[Array, "T V"], prompt: Prompt) -> Float[Array, ""]:
    """Return the target's logit minus the distractor's at the prompt's last position."""
    last = logits[prompt.length - 1]
    return last[prompt.target] - last[prompt.distractor]


def attribute(
    model: Model, of: Dictionary, found: Occurrences, prompt: Prompt, metric: Metric
) -> Float[Array, " N"]:
    """Return change of activation x decoder write x gradient of a metric for every occurrence, in
    the metric's units; 0 for padding.

    This is FAP (PIE, arXiv 2604.16889, section 3) where the model's gradients are frozen.
    """
    shape = (of.weight.shape[0], prompt.tokens.shape[0], of.weight.shape[2])

    def value(delta: Array) -> Array:
        return metric(model(prompt.tokens, delta).logits, prompt)

    gradient = jax.grad(value)(jnp.zeros(shape, jnp.float32))
    return found.delta * gradient_times_write(of.table, found.writes(of), gradient)
