"""Scorers: one file each, entered in `SCORERS` in the order in which they run."""

from collections.abc import Sequence

from pie_jax.errors import InputError
from pie_jax.evaluate.scorers import (
    clarity,
    detection,
    fuzzing,
    purity,
    responsiveness,
    steering_faithfulness,
)
from pie_jax.evaluate.scorers.base import Scorer
from pie_jax.extensions import Registry

SCORERS: Registry[Scorer] = Registry(
    "pie_jax.scorers",
    {
        module.SCORER.name: module.SCORER
        for module in (clarity, responsiveness, purity, detection, fuzzing, steering_faithfulness)
    },
)
# What costs no generation by a model that has to be loaded.
DEFAULT_SCORERS = ("clarity", "responsiveness", "purity", "detection", "fuzzing")

__all__ = ["DEFAULT_SCORERS", "SCORERS", "Scorer", "get_scorers"]


def get_scorers(names: Sequence[str]) -> list[Scorer]:
    """Return scorers by name, in the order in which they run.

    Raises `InputError` for an unknown one, or one whose forerunners are left out.
    """
    for name in names:
        if name not in SCORERS:
            raise InputError(f"--scorers `{name}` is not known; use some of {', '.join(SCORERS)}.")
        missing = [other for other in SCORERS[name].after if other not in names]
        if missing:
            raise InputError(f"--scorers `{name}` also needs {' and '.join(missing)}.")
    return [scorer for scorer in SCORERS.values() if scorer.name in names]
