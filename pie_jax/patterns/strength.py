"""Earlier tokens that go with a feature's stronger activations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pie_jax.features.texts import TokenText

# A difference of means counts from this many standard errors; of hundreds of tokens, some reach
# three by chance.
_CLEAR = 4.0
_LEAST = 5  # windows with the token, and without


def strongest_contexts(texts: Sequence[TokenText], most: int = 3) -> tuple[str, ...]:
    """Return the tokens, clearest first, that stand before the peak where it is high.

    Compares the maxima of firing windows with and without each token before the peak (Welch's t).
    """
    firing = [text for text in texts if text.maximum > 0]
    maxima = np.array([text.maximum for text in firing])
    before = [frozenset(text.tokens[: int(np.argmax(text.activations))]) for text in firing]
    found = []
    for token in sorted(frozenset().union(*before)):
        has = np.array([token in tokens for tokens in before])
        clearness = _welch(maxima[has], maxima[~has])
        if clearness >= _CLEAR:
            found.append((-clearness, token))
    return tuple(token for _, token in sorted(found)[:most])


def _welch(with_it: np.ndarray, without: np.ndarray) -> float:
    """Return the difference of two means in standard errors, 0 for too few windows."""
    if min(len(with_it), len(without)) < _LEAST:
        return 0.0
    error = np.sqrt(np.var(with_it, ddof=1) / len(with_it) + np.var(without, ddof=1) / len(without))
    difference = float(np.mean(with_it) - np.mean(without))
    if error == 0:
        return np.inf if difference > 0 else 0.0
    return difference / float(error)
