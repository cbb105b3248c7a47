"""More corrupted versions of each prompt: other words of the same role in the places that change.

Two words have the same role where some pair exchanges one for the other, or both for a third. So
names are exchanged for names, whatever the task, and only where these run out for other words.
Words are runs of tokens, exchanged for as many.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from pie_jax.errors import InputError
from pie_jax.tasks.encode import EncodedPair

Word = tuple[int, ...]
# Draws of a version that is not there yet, after which there are taken to be no more.
_DRAWS = 64


def with_more_corruptions(
    pairs: Sequence[EncodedPair], count: int, *, of: int, seed: int, source: str = "pairs"
) -> list[EncodedPair]:
    """Return pairs with `count` more corrupted versions each, after the first `of` that they have.

    A version exchanges what one of the first `of` does, for words that none of the pair's own
    versions has. Words come from the first `of` versions of all pairs. Raises `InputError`, naming
    the row, where there are too few.
    """
    roles = _roles(pairs, of)
    result = []
    for pair in pairs:
        made = _made(pair, count, of, roles, np.random.default_rng([seed, pair.index]))
        if len(made) < count:
            raise InputError(
                f"{source}, row {pair.index} (counted from 0): {len(made)} more corrupted versions "
                f"can be made of the words that the pairs exchange, not {count} "
                "(--more-corruptions); give more pairs, or ask for fewer"
            )
        corrupted = (*pair.corrupted[:of], *made, *pair.corrupted[of:])
        result.append(replace(pair, corrupted=corrupted))
    return result


def _made(
    pair: EncodedPair, count: int, of: int, roles: dict[Word, list[Word]], rng: np.random.Generator
) -> list[Word]:
    """Return at most `count` new versions of a prompt."""
    own = {word for version in pair.corrupted for _, word in _exchanges(pair.clean, version)}
    answers = {pair.target_id, pair.distractor_id}

    def is_free(word: Word) -> bool:
        return word not in own and not answers & set(word) and not set(word) <= set(pair.clean)

    free = {old: [word for word in role if is_free(word)] for old, role in roles.items()}
    known, used = {pair.clean, *pair.corrupted}, set[Word]()
    made: list[Word] = []
    for draw in range(_DRAWS * count):
        if len(made) == count:
            break
        exchanges = list(_exchanges(pair.clean, pair.corrupted[draw % of]))
        new = _drawn({old for _, old in exchanges}, free, used, rng)
        if new is None:
            continue
        version = _exchanged(pair.clean, exchanges, new)
        if version not in known:
            known.add(version)
            made.append(version)
            used |= set(new.values())
    return made


def _drawn(
    old: set[Word], free: dict[Word, list[Word]], used: set[Word], rng: np.random.Generator
) -> dict[Word, Word] | None:
    """Return another word for each, one that no other version has where there is one; of its role,
    or else of any; None where words are too few. Of several words, those of a role come back before
    others are taken: together they are new."""
    new: dict[Word, Word] = {}
    for one in sorted(old):
        anything = sorted(
            {word for role in free.values() for word in role if len(word) == len(one)}
        )
        again = [(free[one], set[Word]())] if len(old) > 1 else []
        choices = [(free[one], used), *again, (anything, used), (anything, set[Word]())]
        for words, avoided in choices:
            left = [word for word in words if word not in avoided and word not in new.values()]
            if left:
                new[one] = left[rng.integers(len(left))]
                break
        else:
            return None
    return new


def _exchanged(clean: Word, exchanges: Sequence[tuple[int, Word]], new: dict[Word, Word]) -> Word:
    """Return a prompt with new words where a version has others: the same for the same."""
    prompt = list(clean)
    for start, old in exchanges:
        prompt[start : start + len(old)] = new[old]
    return tuple(prompt)


def _exchanges(clean: Word, version: Word) -> Iterator[tuple[int, Word]]:
    """Yield where each run of other tokens starts in a version, and the run."""
    start = None
    for at, (a, b) in enumerate(zip((*clean, -1), (*version, -1), strict=True)):
        if a != b and start is None:
            start = at
        elif a == b and start is not None:
            yield start, version[start:at]
            start = None


def _roles(pairs: Sequence[EncodedPair], of: int) -> dict[Word, list[Word]]:
    """Return for every word that is exchanged all of its role, sorted."""
    beside: dict[Word, set[Word]] = defaultdict(set)
    for pair in pairs:
        for version in pair.corrupted[:of]:
            for start, word in _exchanges(pair.clean, version):
                old = pair.clean[start : start + len(word)]
                beside[old].add(word)
                beside[word].add(old)
    roles: dict[Word, list[Word]] = {}
    for word in beside:
        if word not in roles:
            group = sorted(_reached(word, beside))
            roles |= dict.fromkeys(group, group)
    return roles


def _reached(first: Word, beside: dict[Word, set[Word]]) -> set[Word]:
    """Return all words that exchanges lead to from one of them."""
    found, waiting = {first}, [first]
    while waiting:
        new = beside[waiting.pop()] - found
        found |= new
        waiting += new
    return found
