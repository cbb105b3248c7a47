"""One step of CLT training: Adam, and the control of how often features fire."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from pie_jax.transcoders.training.state import (
    CLT,
    EPSILON,
    Batch,
    Form,
    TrainState,
    Weights,
    activations,
    estimate,
    feature_thresholds,
    replace_features,
)

# Steps without firing after which a feature's bias rises until it fires, and by how much per
# step, in learning rates and norms of its encoder. Rare features stay in use this way.
_SILENT_STEPS = 20
_LIFT = 2.5
# Rise of the log threshold per unit of log L0 above the target.
_GAIN = 0.05
_ADAM = optax.scale_by_adam()


class Metrics(NamedTuple):
    """Share of unexplained variance [L] and mean number of active features [L] of a batch."""

    unexplained: Float[Array, " L"]
    l0: Float[Array, " L"]


def train_step(
    state: TrainState, batch: Batch, l0: Array, learning_rate: Array, form: Form = CLT
) -> tuple[TrainState, Metrics]:
    """Take one Adam step, move the threshold towards `l0` active features, count idle steps.

    A TopK has no threshold: that many are always active.
    """
    thresholds = feature_thresholds(state)

    def loss_of(weights: Weights) -> tuple[Array, tuple[Array, Array]]:
        active = activations(weights, batch.inputs, thresholds, form)
        errors = batch.targets - estimate(weights, batch.inputs, active)
        unexplained = _unexplained(errors, batch)
        fired = jnp.stack([(a != 0) & batch.counts[:, None] for a in active])
        return unexplained.mean(), (unexplained, fired)

    gradients, (unexplained, fired) = jax.grad(loss_of, has_aux=True)(state.weights)
    weights, moments = _adam_step(state, gradients, ~fired.any(axis=1), learning_rate)
    weights = _lift(weights, state.idle >= _SILENT_STEPS, learning_rate)
    tokens = batch.counts.sum()
    l0_now = fired.sum(axis=(1, 2)) / jnp.maximum(tokens, 1)
    error = jnp.clip(jnp.log(jnp.maximum(l0_now, EPSILON) / l0), -1, 1)
    idle = jnp.where(fired.any(axis=1), 0, state.idle + 1)
    move = _GAIN * error if form.activation != "topk" else 0.0
    new = TrainState(weights, moments, state.log_threshold + move, idle)
    return new, Metrics(unexplained, l0_now)


def _adam_step(
    state: TrainState, gradients: Weights, still: Bool[Array, "L F"], learning_rate: Array
) -> tuple[Weights, optax.ScaleByAdamState]:
    """Update all but the features that did not fire.

    Adam divides by the size of past gradients: a feature that rarely fires would be thrown far
    by one gradient, and go on moving on tokens on which it does not fire.
    """
    updates, new = _ADAM.update(gradients, state.moments)
    updates = replace_features(still, jax.tree.map(jnp.zeros_like, updates), updates)
    mean = replace_features(still, state.moments.mu, new.mu)
    square = replace_features(still, state.moments.nu, new.nu)
    weights = jax.tree.map(lambda w, u: w - learning_rate * u, state.weights, updates)
    return weights, new._replace(mu=mean, nu=square)


def _lift(weights: Weights, silent: Bool[Array, "L F"], learning_rate: Array) -> Weights:
    step = _LIFT * learning_rate * jnp.linalg.norm(weights.encoder, axis=-1)
    return weights._replace(encoder_bias=weights.encoder_bias + step * silent)


def _unexplained(errors: Array, batch: Batch) -> Float[Array, " L"]:
    # Targets have mean 0 and mean square 1, so the mean square error is a share of variance.
    squares = jnp.einsum("lnd,n->l", errors**2, batch.counts.astype(errors.dtype))
    return squares / jnp.maximum(batch.counts.sum(), 1)
