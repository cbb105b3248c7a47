"""Scores of one gradient a prompt, change of activation x gradient x decoder write, and a baseline.

FAP (PIE, arXiv 2604.16889, section 3) takes the gradient through a frozen model, fap-full through
the whole one; RelP (arXiv 2508.21258) has LRP coefficients in its place. The magnitude of
activations knows nothing of the behaviour.
"""

import numpy as np

from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.methods.base import Method


def fap_scores(inputs: BatchEvaluator) -> np.ndarray:
    """Return the FAP score of every occurrence, [B, N], in units of the metric."""
    return inputs.attribution(inputs.options.gradient)


FAP = Method("fap", "Feature Attribution Patching: gradient x write", scores=fap_scores)
FAP_FULL = Method(
    "fap-full",
    "FAP with full gradients instead of frozen ones",
    scores=lambda inputs: inputs.attribution("full"),
)
RELP = Method(
    "relp",
    "Relevance Patching: LRP coefficients x write",
    scores=lambda inputs: inputs.attribution("relp"),
)
ACTIVATION_MAGNITUDE = Method(
    "activation-magnitude",
    "Baseline: the largest activations on the clean prompt",
    scores=lambda inputs: abs(inputs.occurrences.clean),
)
