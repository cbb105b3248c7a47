"""Fuzzing: can one tell from the explanation whether the right tokens are marked?"""

from __future__ import annotations

import numpy as np

from pie_jax.evaluate.scorers.base import Scorer
from pie_jax.evaluate.scorers.detection import draw_windows, judge_windows, too_few
from pie_jax.evaluate.statistics import Score, undefined
from pie_jax.evaluate.subject import Subject
from pie_jax.features.samples import drawn
from pie_jax.features.texts import TokenText


async def score(subject: Subject) -> Score:
    """Return the balanced accuracy over windows with true and with wrong marks.

    True marks are the most active tokens of activating windows; wrong ones as many random tokens
    of silent windows. Undefined as detection is.
    """
    reason = too_few(subject)
    if reason:
        return undefined(reason)
    active, silent = draw_windows(subject, "fuzzing")
    true = [text.strongest() for text in active]
    random = subject.random("wrong marks")
    sizes = random.permutation([len(marks) for marks in true])
    wrong = [_random_marks(text, int(n), random) for text, n in zip(silent, sizes, strict=False)]
    return await judge_windows(subject, [*active, *silent], len(active), "fuzzing", [*true, *wrong])


def _random_marks(text: TokenText, count: int, random: np.random.Generator) -> frozenset[int]:
    return frozenset(drawn(range(len(text.tokens)), max(count, 1), random))


SCORER = Scorer("fuzzing", "balanced accuracy of finding the right marks", score)
