"""FActP: the exact effect of removing each occurrence alone."""

import numpy as np

from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.methods.base import Method


def scores(inputs: BatchEvaluator) -> np.ndarray:
    """Return m_clean - m(occurrence removed), [B, N]; one forward pass an occurrence."""
    valid = inputs.occurrences.valid
    index = np.arange(valid.shape[1], dtype=np.int32)
    alone = np.where(valid, index, -1)[:, :, None]
    return np.where(valid, inputs.removal_effects(alone), 0.0)


METHOD = Method("factp", "Feature Activation Patching: exact effect, one at a time", scores=scores)
