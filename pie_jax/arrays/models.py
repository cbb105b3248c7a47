"""What the functions on arrays need of a language model: one pure function.

Shapes: T positions, L layers, D model, V vocabulary.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple, Protocol

from jaxtyping import Array, Float, Int

from pie_jax.models.gradient_rules import FULL, GradientRule
from pie_jax.models.transformer import Transformer


class Run(NamedTuple):
    """One run: what the transcoder reads in each layer, `inputs` [L, T, D], and `logits` [T, V]."""

    inputs: Float[Array, "L T D"]
    logits: Float[Array, "T V"]


class Model(Protocol):
    """A causal language model, as a pure function of one prompt's tokens.

    `mlp_delta` [L, T, D] is added to the output of every layer's MLP, where the features write (0
    changes nothing), and everything after it is recomputed. What it closes over (weights as a
    pytree, a module, a `functools.partial`) is the caller's affair. Gradients go wherever the
    function lets them: FAP freezes attention patterns, norm scales and MLPs (`as_model(..., rule)`
    or `jax.lax.stop_gradient` in one's own).
    """

    def __call__(self, tokens: Int[Array, " T"], mlp_delta: Float[Array, "L T D"]) -> Run:
        """Return the run of a prompt with something added to its MLP outputs."""
        ...


def as_model(transformer: Transformer, site: str = "resid_mid", rule: GradientRule = FULL) -> Model:
    """Return a transformer of this package as a `Model`, read at a transcoder's `input_site`, with
    gradients under a rule (`pie_jax.models.gradient_rules`: FULL, FROZEN for FAP, RELP)."""
    return partial(_run, transformer, site, rule)


def _run(
    transformer: Transformer, site: str, rule: GradientRule, tokens: Array, mlp_delta: Array
) -> Run:
    streams = transformer.streams(tokens, mlp_delta, rule)
    return Run(
        transformer.transcoder_inputs(streams.resid_mid, site),
        transformer.unembed(streams.residual, rule),
    )
