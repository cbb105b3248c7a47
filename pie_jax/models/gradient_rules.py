"""Where gradients stop: one small value instead of copies of the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

MlpRule = Literal["full", "stop", "lrp"]

# Stabiliser of the LRP identity rule, as in RelP (arXiv 2508.21258).
LRP_EPSILON = 1e-6


@dataclass(frozen=True)
class GradientRule:
    """Which parts of the model gradients pass through; the forward pass never changes.

    `stop_patterns`: attention patterns are constants. `stop_norms`: the scale of every norm
    is a constant. `mlps`: `full` differentiates them, `stop` treats them as constants, `lrp`
    uses the identity rule on the activation and the half rule on the gated product; an MLP without
    a gate has no product, so the identity rule is all there is.
    """

    stop_patterns: bool = False
    stop_norms: bool = False
    mlps: MlpRule = "full"

    def pattern(self, x: Array) -> Array:
        """Apply the rule to an attention pattern."""
        return jax.lax.stop_gradient(x) if self.stop_patterns else x

    def norm_scale(self, x: Array) -> Array:
        """Apply the rule to a norm's scale (1 / root mean square)."""
        return jax.lax.stop_gradient(x) if self.stop_norms else x

    def mlp_output(self, x: Array) -> Array:
        """Apply the rule to the output of an MLP."""
        return jax.lax.stop_gradient(x) if self.mlps == "stop" else x

    def activation(
        self, f: Callable[[Array], Array], x: Float[Array, "..."]
    ) -> Float[Array, "..."]:
        """Return f(x); under LRP its gradient is f(x) / x, with a signed stabiliser."""
        y = f(x)
        if self.mlps != "lrp":
            return y
        divisor = x + LRP_EPSILON * jnp.where(x >= 0, 1.0, -1.0).astype(x.dtype)
        slope = jax.lax.stop_gradient(y / divisor)
        # Value y exactly, gradient `slope`.
        return jax.lax.stop_gradient(y) + slope * (x - jax.lax.stop_gradient(x))

    def product(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Apply the rule to a gated product; under LRP its gradient is halved."""
        if self.mlps != "lrp":
            return x
        return 0.5 * x + jax.lax.stop_gradient(0.5 * x)


FULL = GradientRule()
FROZEN = GradientRule(stop_patterns=True, stop_norms=True, mlps="stop")
RELP = GradientRule(stop_patterns=True, stop_norms=True, mlps="lrp")

GRADIENT_RULES: dict[str, GradientRule] = {"full": FULL, "frozen": FROZEN, "relp": RELP}
