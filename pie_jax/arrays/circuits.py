"""Exact runs of one prompt with some occurrences kept, or some removed.

Shapes: T positions, L layers, D model, N occurrences, S sets, K members of a set.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pie_jax.arrays.dictionary import Dictionary
from pie_jax.arrays.models import Model
from pie_jax.arrays.occurrences import Occurrences
from pie_jax.arrays.scores import Metric
from pie_jax.kernels import removal_delta, write
from pie_jax.prune.batch.metrics import Prompt
from pie_jax.prune.engine.kl import Behaviour, kl_divergence


def kept_change(
    of: Dictionary, found: Occurrences, prompt: Prompt, mask: Float[Array, " N"]
) -> Float[Array, "L T D"]:
    """Return the `mlp_delta` that keeps occurrences to the share `mask` [N] of their change, from 0
    (removed) to 1 (kept)."""
    layers, length = of.weight.shape[0], prompt.tokens.shape[0]
    return write(of.table, found.writes(of), (mask - 1.0) * found.delta, layers, length)


def circuit_kl(
    model: Model, of: Dictionary, found: Occurrences, prompt: Prompt, mask: Float[Array, " N"]
) -> Float[Array, ""]:
    """Return KL(clean || circuit) at the prompt's last position, in nats, where `mask` says how
    much of each occurrence is kept; differentiable by it."""
    clean, changed = _runs(model, of, found, prompt, mask)
    last = prompt.length - 1
    return kl_divergence(clean[last], changed[last])


def behaviour(
    model: Model,
    of: Dictionary,
    found: Occurrences,
    prompt: Prompt,
    mask: Float[Array, " N"],
    metric: Metric,
) -> Behaviour:
    """Return how the model behaves with a circuit kept: KL at the last position and its mean over
    positions in nats, whether the likeliest token changed (1.0), and the metric.

    Of `1 - mask` it is the complement's.
    """
    clean, changed = _runs(model, of, found, prompt, mask)
    kl, last = kl_divergence(clean, changed), prompt.length - 1
    real = jnp.arange(len(kl)) < prompt.length
    return Behaviour(
        kl_last=kl[last],
        kl_mean=jnp.where(real, kl, 0.0).sum() / prompt.length,
        top1_changed=(clean[last].argmax() != changed[last].argmax()).astype(jnp.float32),
        metric=metric(changed, prompt),
    )


def removal_effects(
    model: Model,
    of: Dictionary,
    found: Occurrences,
    prompt: Prompt,
    metric: Metric,
    sets: Int[Array, "S K"],
) -> Float[Array, " S"]:
    """Return by how much a metric falls where each set of occurrences, -1 for padding, is removed:
    exact, one run a set, one after another (`vmap` runs them side by side)."""
    layers, length = of.weight.shape[0], prompt.tokens.shape[0]
    writes, delta = found.writes(of), found.delta

    def value(members: Array) -> Array:
        change = removal_delta(of.table, writes, delta, members, layers, length)
        return metric(model(prompt.tokens, change).logits, prompt)

    nothing = jnp.full((1, sets.shape[1]), -1, sets.dtype)
    values = jax.lax.map(value, jnp.concatenate([nothing, sets]))
    return values[0] - values[1:]


def _runs(
    model: Model, of: Dictionary, found: Occurrences, prompt: Prompt, mask: Array
) -> tuple[Array, Array]:
    change = kept_change(of, found, prompt, mask)
    clean = model(prompt.tokens, jnp.zeros_like(change)).logits
    return clean, model(prompt.tokens, change).logits
