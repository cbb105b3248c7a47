"""Write texts that a pattern matches: its tokens put into windows of other text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pie_jax.patterns.pattern import ANY, Pattern, TokenSet, match

# Places and draws that are tried before a text is given up.
_TRIES = 8
Split = Callable[[str], Sequence[str]]


def compose(
    patterns: Sequence[Pattern],
    neutral: Sequence[Sequence[str]],
    count: int,
    random: np.random.Generator,
    split: Split,
) -> list[str]:
    """Return up to `count` texts that match one of the patterns, which take turns.

    Tokens of a `neutral` window are replaced by those that the pattern asks for; what is only
    described (`any number`) is drawn from all neutral windows. `split` says how the model reads a
    text: one that does not match when it is read is dropped.
    """
    words = sorted({token for tokens in neutral for token in tokens})
    texts: list[str] = []
    for number in range(count):
        pattern = patterns[number % len(patterns)]
        for _ in range(_TRIES):
            tokens = neutral[int(random.integers(len(neutral)))] if neutral else ()
            text = "".join(_placed(pattern, list(tokens), words, random))
            if any(match([pattern], split(text))):
                texts.append(text)
                break
    return texts


def _placed(
    pattern: Pattern, tokens: list[str], words: Sequence[str], random: np.random.Generator
) -> list[str]:
    """Return the window with the pattern's tokens in it."""
    before = _tokens_before(pattern)
    tokens = tokens or [""]
    last = min(len(tokens), pattern.within or len(tokens))
    at = int(random.integers(min(before, last - 1), last))
    tokens += [""] * max(0, before + 2 - len(tokens))
    at = max(at, before) if pattern.within is None else at
    target = _draw(pattern.token, words, random)
    _put(tokens, at, target)
    if pattern.next is not None:
        tokens[at + 1 :] = tokens[at + 1 :] or [""]
        _put(tokens, at + 1, _draw(pattern.next, words, random))
    if pattern.second_previous is not None:
        _put(tokens, at - 2, _draw(pattern.second_previous, words, random))
    previous = None
    if pattern.previous is not None:
        previous = _draw(pattern.previous, words, random)
        _put(tokens, at - 1, previous)
    # What stands somewhere before goes to the first places, in front of the tokens next to it.
    needed = [str(random.choice(pattern.earlier))] if pattern.earlier else []
    needed += [tokens[at - 1]] * pattern.previous_seen
    needed += [tokens[at]] * (pattern.seen is True)
    for place, token in enumerate(needed):
        _put(tokens, place, token)
    if pattern.seen is False:
        tokens[:at] = ["" if token == tokens[at] else token for token in tokens[:at]]
    return tokens


def _tokens_before(pattern: Pattern) -> int:
    """Return how many tokens a match needs in front of it."""
    next_to = 2 if pattern.second_previous else 1 if pattern.previous else 0
    next_to = max(next_to, int(pattern.previous_seen))
    return next_to + bool(pattern.earlier) + pattern.previous_seen + (pattern.seen is True)


def _draw(tokens: TokenSet, words: Sequence[str], random: np.random.Generator) -> str | None:
    """Return a token of a set, None for any."""
    if tokens == ANY:
        return None
    choices = tokens.listed or [word for word in words if word in tokens]
    return str(choices[int(random.integers(len(choices)))]) if choices else None


def _put(tokens: list[str], at: int, token: str | None) -> None:
    if token is not None and 0 <= at < len(tokens):
        tokens[at] = token
