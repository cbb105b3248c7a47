"""The last step of a per-layer training: decoders by least squares, encoders as they are."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pie_jax.devices.programs import program
from pie_jax.models.transformer import Transformer
from pie_jax.transcoders.modules import CrossLayerTranscoder
from pie_jax.transcoders.training.data import Feed, Windows
from pie_jax.transcoders.training.stream import Streamed, stream

# How strongly a feature's decoder is held where training left it, as a share of its own squares:
# each layer has the one that is best for other batches, or stays as it is.
_HOLDS = (0.02, 0.1, 0.5, 2.0)
_JUDGES = 4  # of so many blocks of batches one judges
_BATCHES = 4  # of training, at a time


class _Sums(NamedTuple):
    """Sums over tokens of products: activations and 1 with each other, and with what is missing."""

    squares: Float[Array, "L G G"]
    errors: Float[Array, "L G D"]


def refit(
    transformer: Transformer, made: CrossLayerTranscoder, windows: Windows, batches: int
) -> CrossLayerTranscoder:
    """Return a per-layer transcoder with the decoders and biases that leave the least squared
    error over the first `batches` of training, drawn a little towards what they were.

    Adam takes a few hundred steps towards what this solves at once. A feature that fires on none
    of these tokens keeps its decoder.
    """
    fitted = judging = None
    for number, start in enumerate(range(0, batches, _BATCHES)):
        feed = windows.batch(start, min(_BATCHES, batches - start))
        sums = [np.asarray(one, np.float64) for one in _sums(transformer, made, feed)]
        if number % _JUDGES == 1:
            judging = _added(judging, sums)
        else:
            fitted = _added(fitted, sums)
    assert fitted is not None
    judging = judging or fitted  # where there is no more than a block
    moves = [best_move(*layer) for layer in zip(*fitted, *judging, strict=True)]
    decoders = [
        old[...] + move[:-1, None].astype(np.float32)
        for old, move in zip(made.decoders, moves, strict=True)
    ]
    bias = made.bias[...] + np.stack([move[-1] for move in moves]).astype(np.float32)
    skip = None if made.skip is None else made.skip[...]
    return CrossLayerTranscoder(made.config, list(made.encoders), decoders, bias, skip)


def best_move(
    squares: np.ndarray, errors: np.ndarray, other_squares: np.ndarray, other_errors: np.ndarray
) -> np.ndarray:
    """Return what is to be added to decoders and bias [G, D]: of the solutions that hold them more
    or less, and of none, what is best for other tokens."""
    moves = [np.zeros_like(errors), *(solve(squares, errors, hold) for hold in _HOLDS)]
    # How the squared error changes.
    changes = [np.sum(move * (other_squares @ move - 2 * other_errors)) for move in moves]
    return moves[int(np.argmin(changes))]


def solve(squares: np.ndarray, errors: np.ndarray, hold: float) -> np.ndarray:
    """Return the move [G, D] of least squares that is held back by so much; 0 of what is silent."""
    held = hold * np.diag(squares)
    held[-1] = 0.0  # the bias is free
    silent = np.diag(squares) == 0
    return np.linalg.solve(squares + np.diag(np.where(silent, 1.0, held)), errors)


def _added(total: list[np.ndarray] | None, sums: list[np.ndarray]) -> list[np.ndarray]:
    return sums if total is None else [a + b for a, b in zip(total, sums, strict=True)]


@program()
def _sums(transformer: Transformer, made: CrossLayerTranscoder, feed: Feed) -> _Sums:
    return products(made, stream(transformer, feed))


def products(made: CrossLayerTranscoder, batch: Streamed) -> _Sums:
    """Return the sums of a batch, a layer at a time."""
    missing = batch.targets - made.skipped(batch.inputs) - made.bias[...][:, None]
    found = []
    layers = zip(made.encoders, made.decoders, batch.inputs, missing, strict=True)
    for encoder, decoder, inputs, wanted in layers:
        active = encoder(inputs)
        error = wanted - active @ decoder[:, 0]
        rows = jnp.pad(active, ((0, 0), (0, 1)), constant_values=1.0) * batch.counts[:, None]
        found.append(_Sums(rows.T @ rows, rows.T @ error))
    return _Sums(*(jnp.stack(one) for one in zip(*found, strict=True)))
