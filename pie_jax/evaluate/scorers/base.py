"""The interface of a scorer: from a subject to a score, which may be undefined."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pie_jax.evaluate.statistics import Score
from pie_jax.evaluate.subject import Subject


@dataclass(frozen=True)
class Scorer:
    """A way to score an explanation; `after` names scorers whose scores it looks at, `corpus` says
    that it draws random texts of the corpus (`subject.natural`)."""

    name: str
    description: str
    score: Callable[[Subject], Awaitable[Score]]
    after: tuple[str, ...] = ()
    corpus: bool = False
