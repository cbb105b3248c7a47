"""Purity: are the texts that activate the feature most those that fit the description?"""

from dataclasses import replace

from pie_jax.evaluate.scorers.base import Scorer
from pie_jax.evaluate.scorers.responsiveness import why_undefined
from pie_jax.evaluate.statistics import Score, average_precision_score, undefined
from pie_jax.evaluate.subject import Subject


async def score(subject: Subject) -> Score:
    """Return the average precision of texts rated 2 among those rated 0 or 2.

    Undefined as responsiveness is. `chance` is n2 / (n0 + n2).
    """
    rated = await subject.ratings()
    reason = why_undefined(rated)
    failed = len(rated.answers.failed)
    if reason:
        return undefined(reason, len(rated.ratings), failed)
    seed = subject.seed("purity")
    found = average_precision_score(rated.rated(0), rated.rated(2), seed=seed)
    return replace(found, failed=failed)


SCORER = Scorer("purity", "average precision of texts rated 2", score, corpus=True)
