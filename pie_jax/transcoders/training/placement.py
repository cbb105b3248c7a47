"""Where features start and restart: at tokens, drawn by how much is missing there."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Bool, PRNGKeyArray

from pie_jax.transcoders.training.state import (
    CLT,
    EPSILON,
    Batch,
    Form,
    TrainState,
    Weights,
    activations,
    decoder_norms,
    estimate,
    feature_thresholds,
    preactivations,
    replace_features,
)

# A feature clears the threshold where it was placed, by this factor.
_CLEARANCE = 1.5
# By how much a feature's direction is off its token's, or two that drew the same token would have
# the same gradients and stay one feature for ever.
_APART = 0.3


def first_state(
    features: int, batch: Batch, l0: ArrayLike, key: PRNGKeyArray, form: Form = CLT
) -> TrainState:
    """Place every feature at a token of `batch` and set the thresholds that leave `l0` active, one
    number or one a layer [L]."""
    layers, _, width = batch.inputs.shape
    wanted = jnp.broadcast_to(jnp.asarray(l0, jnp.float32), (layers,))
    targets = [form.targets(layers, layer) for layer in range(layers)]
    weights = Weights(
        jnp.zeros((layers, features, width)),
        jnp.zeros((layers, features)),
        tuple(jnp.zeros((features, count, width)) for count in targets),
        jnp.zeros((layers, width)),
        jnp.zeros((layers, width, width)) if form.skip else None,
    )
    state = TrainState(
        weights,
        optax.ScaleByAdamState(
            jnp.zeros((), jnp.int32),
            jax.tree.map(jnp.zeros_like, weights),
            jax.tree.map(jnp.zeros_like, weights),
        ),
        # Writes that add up to about the target, as the features of all layers before it are on.
        jnp.broadcast_to(-jnp.log(_CLEARANCE * form.writers(wanted)), (layers,)),
        jnp.zeros((layers, features), jnp.int32),
    )
    state = revive(state, batch, jnp.ones((layers, features), bool), key, form)
    if form.activation == "topk":
        return state
    norms = decoder_norms(state.weights)
    thresholds = [
        jnp.nanquantile(jnp.where(batch.counts[:, None], pre * norm, jnp.nan), 1 - one / features)
        for pre, norm, one in zip(
            preactivations(state.weights, batch.inputs), norms, wanted, strict=True
        )
    ]
    return state._replace(log_threshold=jnp.log(jnp.maximum(jnp.stack(thresholds), EPSILON)))


def revive(
    state: TrainState,
    batch: Batch,
    dead: Bool[Array, "L F"],
    key: PRNGKeyArray,
    form: Form = CLT,
) -> TrainState:
    """Place dead features anew, as if they had never been trained."""
    placed = _place(state, batch, key, form)
    zeros = jax.tree.map(jnp.zeros_like, placed)
    moments = state.moments._replace(
        mu=replace_features(dead, zeros, state.moments.mu),
        nu=replace_features(dead, zeros, state.moments.nu),
    )
    weights = replace_features(dead, placed, state.weights)
    return state._replace(weights=weights, moments=moments, idle=jnp.where(dead, 0, state.idle))


def _place(state: TrainState, batch: Batch, key: PRNGKeyArray, form: Form) -> Weights:
    """Draw a token for every feature: it reads about that token and writes towards the error there.

    Tokens are drawn by their squared error in the layers that the feature writes to. At its
    token a feature has activation 1 and a write a little above the threshold: larger ones would
    add up, as similar tokens are drawn many times.
    """
    weights = state.weights
    active = activations(weights, batch.inputs, feature_thresholds(state), form)
    errors = (batch.targets - estimate(weights, batch.inputs, active)) * batch.counts[:, None]
    layers, features = state.idle.shape
    encoder, decoders = [], []
    for layer, inputs in enumerate(batch.inputs):
        ahead = errors[layer : layer + form.targets(layers, layer)]
        squares = jnp.sum(ahead**2, axis=(0, 2)) + EPSILON * batch.counts
        draw, apart = jax.random.split(jax.random.fold_in(key, layer))
        tokens = jax.random.choice(draw, len(squares), (features,), p=squares / squares.sum())
        read, write = inputs[tokens], ahead[:, tokens].swapaxes(0, 1)
        length = jnp.sum(read**2, axis=1, keepdims=True) + EPSILON
        noise = jax.random.normal(apart, read.shape) * jnp.sqrt(length / read.shape[1])
        encoder.append((read + _APART * noise) / length)
        size = _CLEARANCE * jnp.exp(state.log_threshold[layer]) / jnp.sqrt(squares[tokens])
        decoders.append(write * size[:, None, None])
    return Weights(
        jnp.stack(encoder),
        jnp.zeros((layers, features)),
        tuple(decoders),
        weights.output_bias,
        weights.skip,
    )
