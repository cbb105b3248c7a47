"""What a behaviour is measured by: one number a prompt, in float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pie_jax.models.gradient_rules import FULL, GradientRule
from pie_jax.models.transformer import Transformer


class Prompt(NamedTuple):
    """One padded prompt: tokens [T], its length, and the answer's and distractor's ids.

    Where a metric needs no answer the ids are 0.
    """

    tokens: Int[Array, "*B T"]
    length: Int[Array, "*B"]
    target: Int[Array, "*B"]
    distractor: Int[Array, "*B"]


@dataclass(frozen=True)
class Metric:
    """`value(model, residual [T, D], prompt, rule) -> scalar`, and whether it needs an answer."""

    name: str
    needs_target: bool
    value: Callable[[Transformer, Array, Prompt, GradientRule], Array]


def last_logits(
    model: Transformer, residual: Float[Array, "T D"], prompt: Prompt, rule: GradientRule = FULL
) -> Float[Array, " V"]:
    """Return the logits at the last position of a padded prompt."""
    last = jax.lax.dynamic_slice_in_dim(residual, prompt.length - 1, 1)
    return model.unembed(last, rule)[0]


def logit_diff(
    model: Transformer, residual: Float[Array, "T D"], prompt: Prompt, rule: GradientRule
) -> Float[Array, ""]:
    """Logit of the target minus logit of the distractor at the last position."""
    logits = last_logits(model, residual, prompt, rule)
    return logits[prompt.target] - logits[prompt.distractor]


def logsumexp(
    model: Transformer, residual: Float[Array, "T D"], prompt: Prompt, rule: GradientRule
) -> Float[Array, ""]:
    """Sum over positions of log(sum(exp(logits)))."""
    each = jax.nn.logsumexp(model.unembed(residual, rule), axis=-1)
    return jnp.where(jnp.arange(each.shape[0]) < prompt.length, each, 0.0).sum()


METRICS: dict[str, Metric] = {
    "logit-diff": Metric("logit-diff", True, logit_diff),
    "logsumexp": Metric("logsumexp", False, logsumexp),
}
