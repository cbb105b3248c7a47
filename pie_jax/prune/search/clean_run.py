"""The KL of a changed window, beside what the clean run predicts.

Shapes: L layers, W positions of the window, D model, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pie_jax.models import cached_prefix as windows
from pie_jax.models.transformer import Transformer
from pie_jax.prune.batch.problem import Problem


class CleanRun(NamedTuple):
    """What a changed run of one prompt needs of its clean one: the recorded window `of` it, the
    place `last` of the prompt's last position, and `clean` [V] log-probabilities there."""

    of: windows.CachedPrefix
    last: Int[Array, "*B"]
    clean: Float[Array, "*B V"]


def open_window(problem: Problem) -> CleanRun:
    """Return the window of one problem; of a whole prompt where it has none."""
    model, prompt, of = problem.model, problem.prompt, problem.window
    if of is None:
        recorded = windows.record(model, prompt.tokens)
        of = windows.window(recorded, jnp.int32(0), prompt.tokens.shape[0])
    last = prompt.length - 1
    logits = model.unembed(jax.lax.dynamic_slice_in_dim(of.residual, last, 1))[0]
    return CleanRun(of, last, jax.nn.log_softmax(logits))


def window_predicted(
    model: Transformer, window: CleanRun, mlp_delta: Float[Array, "L W D"]
) -> Float[Array, " V"]:
    """Return log-probabilities at the last position with something added to the MLP outputs."""
    residual = windows.run_changed(model, window.of, mlp_delta, last=window.last)
    return jax.nn.log_softmax(model.unembed(residual)[0])


def window_kl(
    model: Transformer, window: CleanRun, mlp_delta: Float[Array, "L W D"]
) -> Float[Array, ""]:
    """Return KL(clean || changed) at the last position with something added to the MLP outputs, in
    nats."""
    return kl_of(window.clean, window_predicted(model, window, mlp_delta))


def kl_of(expected: Float[Array, " V"], changed: Float[Array, " V"]) -> Float[Array, ""]:
    """Return KL(expected || changed) of log-probabilities, in nats."""
    return jnp.sum(jnp.exp(expected) * (expected - changed))
