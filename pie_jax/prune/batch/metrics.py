"""Metrics of a behaviour: one number per prompt, in float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pie_jax.extensions import Registry
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
    """A sum over positions: `each(model, residual [P, D], prompt, rule) -> [P]` is their shares.

    `last_only`: only the last position of the prompt counts. One that needs a target needs a
    distractor too, but for `needs_distractor=False`.
    """

    name: str
    needs_target: bool
    last_only: bool
    each: Callable[[Transformer, Array, Prompt, GradientRule], Array]
    needs_distractor: bool = True

    def value(
        self,
        model: Transformer,
        residual: Float[Array, "T D"],
        prompt: Prompt,
        rule: GradientRule = FULL,
    ) -> Float[Array, ""]:
        """Return the metric of a run from the last residual stream of the prompt."""
        if self.last_only:
            return self.each(model, last_position(residual, prompt), prompt, rule)[0]
        shares = self.each(model, residual, prompt, rule)
        return jnp.where(jnp.arange(shares.shape[0]) < prompt.length, shares, 0.0).sum()


def last_position(residual: Float[Array, "T D"], prompt: Prompt) -> Float[Array, "1 D"]:
    """Return the stream at the last position of a padded prompt."""
    return jax.lax.dynamic_slice_in_dim(residual, prompt.length - 1, 1)


def last_logits(
    model: Transformer, residual: Float[Array, "T D"], prompt: Prompt, rule: GradientRule = FULL
) -> Float[Array, " V"]:
    """Return the logits at the last position of a padded prompt."""
    return model.unembed(last_position(residual, prompt), rule)[0]


def logit_diff(
    model: Transformer, residual: Float[Array, "P D"], prompt: Prompt, rule: GradientRule
) -> Float[Array, " P"]:
    """Logit of the target minus logit of the distractor."""
    logits = model.unembed_ids(residual, jnp.stack([prompt.target, prompt.distractor]), rule)
    return logits[:, 0] - logits[:, 1]


def logit_above_mean(
    model: Transformer, residual: Float[Array, "P D"], prompt: Prompt, rule: GradientRule
) -> Float[Array, " P"]:
    """Logit of the target minus the mean logit of the vocabulary."""
    target = model.unembed_ids(residual, prompt.target[None], rule)[:, 0]
    return target - model.unembed(residual, rule).mean(axis=-1)


def logsumexp(
    model: Transformer, residual: Float[Array, "P D"], prompt: Prompt, rule: GradientRule
) -> Float[Array, " P"]:
    """log(sum(exp(logits)))."""
    return jax.nn.logsumexp(model.unembed(residual, rule), axis=-1)


METRICS: Registry[Metric] = Registry(
    "pie_jax.metrics",
    {
        "logit-diff": Metric("logit-diff", True, True, logit_diff),
        "logit-above-mean": Metric("logit-above-mean", True, True, logit_above_mean, False),
        "logsumexp": Metric("logsumexp", False, False, logsumexp),
    },
)


def own_metric(
    name: str,
    value: Callable[[Array, Prompt], Array],
    *,
    needs_target: bool = False,
    needs_distractor: bool = True,
) -> Metric:
    """Return a metric from a function of the logits [V] at the prompt's last position and the
    prompt, which JAX differentiates; where it needs a target, it needs a distractor by default.

    `METRICS[name] = own_metric(name, value)` makes it known to runs and the command line.
    """

    def each(
        model: Transformer, residual: Float[Array, "P D"], prompt: Prompt, rule: GradientRule
    ) -> Float[Array, " P"]:
        return jax.vmap(lambda logits: value(logits, prompt))(model.unembed(residual, rule))

    return Metric(name, needs_target, True, each, needs_distractor)
