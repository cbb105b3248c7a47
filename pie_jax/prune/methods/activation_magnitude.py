"""Activation magnitude: a baseline that knows nothing of the behaviour."""

from pie_jax.prune.methods.base import Method

METHOD = Method(
    "activation-magnitude",
    "Baseline: the largest activations on the clean prompt",
    scores=lambda inputs: abs(inputs.occurrences.clean),
)
