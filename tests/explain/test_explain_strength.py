"""Which earlier tokens go with stronger firing."""

from __future__ import annotations

import numpy as np

from pie_jax.features.texts import TokenText
from pie_jax.patterns.strength import strongest_contexts


def windows(random: np.random.Generator, count: int, bonus: dict[str, float]) -> list[TokenText]:
    """Draw windows that fire at " to", more where a name of `bonus` stands before it."""
    names = [f" N{i}" for i in range(12)]
    found = []
    for _ in range(count):
        first, last = random.choice(names, 2, replace=False)
        strength = 1.0 + bonus.get(first, 0.0) + 0.1 * random.standard_normal()
        tokens = ("Then,", str(first), " gave", " it", " to", str(last))
        found.append(TokenText(tokens, (0.0, 0.0, 0.0, 0.0, strength, 0.0)))
    return found


def test_finds_what_stands_before_stronger_peaks():
    texts = windows(np.random.default_rng(0), 200, {" N3": 0.5, " N7": 0.8})
    assert strongest_contexts(texts) == (" N7", " N3")
    assert strongest_contexts(texts, most=1) == (" N7",)


def test_finds_nothing_where_nothing_differs():
    for seed in range(5):
        assert strongest_contexts(windows(np.random.default_rng(seed), 200, {})) == ()


def test_what_comes_after_the_peak_does_not_count():
    texts = windows(np.random.default_rng(1), 200, {})
    louder = [
        TokenText(
            text.tokens, tuple(a * (3 if text.tokens[5] == " N1" else 1) for a in text.activations)
        )
        for text in texts
    ]
    assert strongest_contexts(louder) == ()


def test_few_or_silent_windows_say_nothing():
    texts = windows(np.random.default_rng(2), 6, {" N3": 5.0})
    assert strongest_contexts(texts) == ()
    assert strongest_contexts([]) == ()
    assert strongest_contexts([TokenText((" a", " b"), (0.0, 0.0))]) == ()
