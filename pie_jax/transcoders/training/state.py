"""What training changes, and what it computes: activations, reconstruction, thresholds.

Shapes: L layers, N tokens of a batch, D model, F features a layer, W target layers of a
feature (1 of a per-layer transcoder). Inputs and targets are normalised per layer; `export` folds
that into the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from pie_jax.transcoders.config import TranscoderConfig
from pie_jax.transcoders.modules import CrossLayerTranscoder, Encoder

EPSILON = 1e-8

TrainedActivation = Literal["jumprelu", "relu", "topk"]


@dataclass(frozen=True)
class Form:
    """What is trained: which activation, where features write, whether there is an affine skip.

    JumpReLU and ReLU have thresholds that are steered to an L0; a ReLU's is in its bias in the
    end. A TopK keeps the `k` largest of a layer and token, as they are.
    """

    activation: TrainedActivation = "jumprelu"
    cross_layer: bool = True
    skip: bool = False
    k: int | None = None

    def targets(self, layers: int, layer: int) -> int:
        """Return how many layers, from its own on, a feature of `layer` writes to."""
        return layers - layer if self.cross_layer else 1

    def writers(self, active: Float[Array, " L"]) -> Float[Array, "..."]:
        """Return how many features write to a layer, at most, if so many of each are active."""
        return active.sum() if self.cross_layer else active


CLT = Form()


class Scales(NamedTuple):
    """Mean [L, D] and root mean square distance from it [L] of the inputs and the targets."""

    input_mean: Float[Array, "L D"]
    input_scale: Float[Array, " L"]
    output_mean: Float[Array, "L D"]
    output_scale: Float[Array, " L"]


class Batch(NamedTuple):
    """Normalised inputs and targets [L, N, D], and which tokens count [N]."""

    inputs: Float[Array, "L N D"]
    targets: Float[Array, "L N D"]
    counts: Bool[Array, " N"]


class Weights(NamedTuple):
    """What the optimiser changes: encoders, L decoders [F, W, D], an affine skip (out, in)."""

    encoder: Float[Array, "L F D"]
    encoder_bias: Float[Array, "L F"]
    decoders: tuple[Float[Array, "F W D"], ...]
    output_bias: Float[Array, "L D"]
    skip: Float[Array, "L D D"] | None = None


class TrainState(NamedTuple):
    """All that a step changes; `idle` counts the steps since a feature last fired.

    `log_threshold` [L] is of a feature's write (activation times norm of its decoder), so that
    a feature cannot escape it by scaling its encoder up and its decoder down.
    """

    weights: Weights
    moments: optax.ScaleByAdamState
    log_threshold: Float[Array, " L"]
    idle: Int[Array, "L F"]


def measure_scales(
    inputs: Float[Array, "L N D"], targets: Float[Array, "L N D"], counts: Bool[Array, " N"]
) -> Scales:
    """Return the mean and scale of every layer's inputs and targets."""
    return Scales(*_mean_and_scale(inputs, counts), *_mean_and_scale(targets, counts))


def _mean_and_scale(x: Array, counts: Array) -> tuple[Array, Array]:
    share = counts / jnp.maximum(counts.sum(), 1)
    mean = jnp.einsum("lnd,n->ld", x, share)
    squares = jnp.einsum("lnd,n->l", (x - mean[:, None]) ** 2, share)
    return mean, jnp.sqrt(squares + EPSILON)


def normalise(
    scales: Scales,
    inputs: Float[Array, "L N D"],
    targets: Float[Array, "L N D"],
    counts: Bool[Array, " N"],
) -> Batch:
    """Return a batch in which every layer's inputs and targets have mean 0 and mean square 1."""
    return Batch(
        (inputs - scales.input_mean[:, None]) / scales.input_scale[:, None, None],
        (targets - scales.output_mean[:, None]) / scales.output_scale[:, None, None],
        counts,
    )


def preactivations(weights: Weights, inputs: Float[Array, "L N D"]) -> list[Float[Array, "N F"]]:
    """Return encoder . x + bias, [N, F] for each of the L layers."""
    return [
        x @ encoder.T + bias
        for x, encoder, bias in zip(inputs, weights.encoder, weights.encoder_bias, strict=True)
    ]


def activations(
    weights: Weights,
    inputs: Float[Array, "L N D"],
    thresholds: Float[Array, "L F"],
    form: Form = CLT,
) -> list[Float[Array, "N F"]]:
    """Return the activations, [N, F] for each of the L layers; 0 is inactive."""
    pre = preactivations(weights, inputs)
    if form.activation == "topk":
        assert form.k is not None
        return [_largest(one, form.k) for one in pre]
    shift = form.activation == "relu"
    return [
        jnp.where(one > threshold, one - threshold if shift else one, 0.0)
        for one, threshold in zip(pre, thresholds, strict=True)
    ]


def _largest(pre: Float[Array, "N F"], k: int) -> Float[Array, "N F"]:
    """Keep the k largest of every row; of equal ones the first."""
    values, index = jax.lax.top_k(pre, k)
    return jnp.zeros_like(pre).at[jnp.arange(len(pre))[:, None], index].set(values)


def decode(weights: Weights, activations: list[Float[Array, "N F"]]) -> Float[Array, "L N D"]:
    """Sum what the features of every layer write to it and to the layers after it."""
    layers, width = weights.output_bias.shape
    total = jnp.broadcast_to(weights.output_bias[:, None], (layers, len(activations[0]), width))
    for layer, (a, decoder) in enumerate(zip(activations, weights.decoders, strict=True)):
        # One product for all target layers: [N, F] x [F, W * D].
        write = (a @ decoder.reshape(len(decoder), -1)).reshape(len(a), -1, width)
        total = total.at[layer : layer + write.shape[1]].add(write.swapaxes(0, 1))
    return total


def estimate(
    weights: Weights, inputs: Float[Array, "L N D"], activations: list[Float[Array, "N F"]]
) -> Float[Array, "L N D"]:
    """Return what features write, and what the affine skip makes of the inputs."""
    written = decode(weights, activations)
    if weights.skip is None:
        return written
    return written + jnp.einsum("lnd,led->lne", inputs, weights.skip)


def decoder_norms(weights: Weights) -> Float[Array, "L F"]:
    """Return the norm of each feature's decoder over all its target layers."""
    return jnp.stack([jnp.sqrt(jnp.sum(d**2, axis=(1, 2)) + EPSILON) for d in weights.decoders])


def feature_thresholds(state: TrainState) -> Float[Array, "L F"]:
    """Return the activation that each feature must exceed."""
    return jnp.exp(state.log_threshold)[:, None] / decoder_norms(state.weights)


def replace_features(mask: Array, new: Weights, old: Weights) -> Weights:
    """Return `old` with the features of `mask` [L, F] as in `new`."""
    return Weights(
        jnp.where(mask[..., None], new.encoder, old.encoder),
        jnp.where(mask, new.encoder_bias, old.encoder_bias),
        tuple(
            jnp.where(row[:, None, None], n, o)
            for row, n, o in zip(mask, new.decoders, old.decoders, strict=True)
        ),
        old.output_bias,
        old.skip,
    )


def export(state: TrainState, scales: Scales, config: TranscoderConfig) -> CrossLayerTranscoder:
    """Return the transcoder of raw inputs and outputs, its threshold that of each activation."""
    weights = state.weights
    encoders = []
    for layer, threshold in enumerate(feature_thresholds(state)):
        weight = weights.encoder[layer] / scales.input_scale[layer]
        bias = weights.encoder_bias[layer] - weight @ scales.input_mean[layer]
        if config.activation == "relu":
            bias = bias - threshold
        jump = threshold if config.activation == "jumprelu" else None
        encoders.append(Encoder(weight, bias, jump, config.top))
    decoders = [
        decoder * scales.output_scale[layer : layer + decoder.shape[1], None]
        for layer, decoder in enumerate(weights.decoders)
    ]
    bias = scales.output_mean + weights.output_bias * scales.output_scale[:, None]
    if weights.skip is None:
        return CrossLayerTranscoder(config, encoders, decoders, bias)
    skip = weights.skip * (scales.output_scale / scales.input_scale)[:, None, None]
    bias = bias - jnp.einsum("led,ld->le", skip, scales.input_mean)
    return CrossLayerTranscoder(config, encoders, decoders, bias, skip)
