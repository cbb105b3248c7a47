"""The FAP product: the first-order effect of an occurrence's write on a metric."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pie_jax.kernels.writes import Writes


def gradient_times_write(
    table: Float[Array, "R D"], writes: Writes, gradient: Float[Array, "L T D"]
) -> Float[Array, " N"]:
    """Return sum over target layers t of <row of t, gradient[t, position]> for N occurrences.

    Scans the target layers, so that no array of N x L x D is made; sums in float32. The score of
    FAP (PIE, arXiv 2604.16889, section 3) is this times the change of activation.
    """

    def target(total, inputs):
        layer, at_layer = inputs
        product = writes.rows(table, layer) * at_layer[writes.position]
        return total + product.sum(-1), None

    layers = jnp.arange(gradient.shape[0])
    zero = jnp.zeros(writes.start.shape, jnp.float32)
    return jax.lax.scan(target, zero, (layers, gradient.astype(jnp.float32)))[0]
