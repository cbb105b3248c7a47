"""FAP: change of activation x gradient x decoder write (PIE, arXiv 2604.16889, section 3)."""

import numpy as np

from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.methods.base import Method


def scores(inputs: BatchEvaluator) -> np.ndarray:
    """Return the FAP score of every occurrence, [B, N], in units of the metric."""
    return inputs.attribution(inputs.options.gradient)


METHOD = Method("fap", "Feature Attribution Patching: gradient x write", scores=scores)
