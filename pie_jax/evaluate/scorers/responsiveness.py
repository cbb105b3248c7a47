"""Responsiveness: does the feature respond more to texts that fit the description?"""

from dataclasses import replace

from pie_jax.evaluate.scorers.base import Scorer
from pie_jax.evaluate.statistics import Score, gini_score, undefined
from pie_jax.evaluate.subject import Rated, Subject


async def score(subject: Subject) -> Score:
    """Return the Gini score of texts rated 2 against texts rated 0; those rated 1 do not count.

    Undefined: `none-rated-2`, `none-rated-0`, all calls failed.
    """
    rated = await subject.ratings()
    reason = why_undefined(rated)
    n, failed = len(rated.ratings), len(rated.answers.failed)
    if reason:
        return undefined(reason, n, failed)
    seed = subject.seed("responsiveness")
    found = gini_score(rated.rated(0), rated.rated(2), subject.shared.gini, seed=seed)
    return replace(found, failed=failed)


def why_undefined(rated: Rated) -> str | None:
    """Return why ratings lead to no score, if so."""
    if not len(rated.ratings):
        return rated.answers.status if rated.answers.failed else "no-text-to-rate"
    if not len(rated.rated(2)):
        return "none-rated-2"
    return None if len(rated.rated(0)) else "none-rated-0"


SCORER = Scorer("responsiveness", "Gini of texts rated 2 against texts rated 0", score, corpus=True)
