"""Both forms of the gradient-times-write product as Pallas kernels, for TPUs and GPUs.

The package uses neither; docs/kernels.md says what they reach on a GPU.
Shapes: N occurrences of one source layer in a batch, B batch, T positions, D model, W target
layers, U row sets, F features.
"""

from __future__ import annotations

from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from benchmarks.peers.streamed import pallas_gpu, pallas_tpu
from benchmarks.peers.streamed.scan import ByFeature, columns_of

Platform = Literal["tpu", "gpu"]

_BLOCK = 256


def pallas_gathered(
    rows: Float[Array, "U W D"],
    occurrences: ByFeature,
    gradient: Float[Array, "B W T D"],
    platform: Platform,
    interpret: Any = False,
) -> Float[Array, " N"]:
    """Return what `streamed_gradient_times_write` does, reading one row set [W, D] for each
    occurrence.

    A source layer's part of a packed table is such an array: its `feature` is then the number of
    the row set.
    """
    sets, width, model = rows.shape
    index = jnp.minimum(occurrences.feature, sets - 1)
    place = occurrences.prompt * gradient.shape[2] + occurrences.position
    places = columns_of(gradient)
    if platform == "tpu":
        places = places.reshape(-1, width, model)
        score = pallas_tpu.gathered(rows, index, place, places, interpret)
    else:
        score = pallas_gpu.gathered(rows.reshape(sets, -1), index, place, places, interpret)
    return occurrences.restore(jnp.where(occurrences.feature < sets, score, 0.0))


def pallas_streamed(
    decoder: Float[Array, "F W D"],
    occurrences: ByFeature,
    gradient: Float[Array, "B W T D"],
    platform: Platform,
    interpret: Any = False,
    block: int = _BLOCK,
) -> Float[Array, " N"]:
    """Return what `streamed_gradient_times_write` does, reading the decoder once.

    On TPUs `block` features, a multiple of 16, are multiplied with all gradients, and the scores
    [F, B T] are written before they are picked; on GPUs only asked-for scores are made.
    """
    features = decoder.shape[0]
    place = occurrences.prompt * gradient.shape[2] + occurrences.position
    rows, places = decoder.reshape(features, -1), columns_of(gradient)
    if platform == "tpu":
        scores = pallas_tpu.all_scores(rows, places, block, interpret)
        score = scores[jnp.minimum(occurrences.feature, features - 1), place]
    else:
        bounds = jnp.searchsorted(occurrences.feature, jnp.arange(features + 1))
        bounds = bounds.astype(jnp.int32)
        score = pallas_gpu.streamed(rows, bounds, place, places, interpret)
    return occurrences.restore(jnp.where(occurrences.feature < features, score, 0.0))
