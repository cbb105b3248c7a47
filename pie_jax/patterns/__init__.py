"""Patterns of tokens: learned from windows, written as a sentence, read back and applied.

The grammar is in docs/scoring.md.
"""

from pie_jax.patterns.learn import learn_patterns
from pie_jax.patterns.pattern import Pattern, TokenSet, match
from pie_jax.patterns.sentence import PatternError, parse, write

__all__ = [
    "Pattern",
    "PatternError",
    "TokenSet",
    "learn_patterns",
    "match",
    "parse",
    "write",
]
