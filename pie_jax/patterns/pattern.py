"""A pattern: conditions on one token and the tokens around it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

# Classes of tokens by their looks, with the words of the grammar.
KINDS: dict[str, re.Pattern[str]] = {
    "any token": re.compile(r"[\s\S]*"),
    "any capitalised word": re.compile(r" ?[A-Z][a-z]+"),
    "any lower-case word": re.compile(r" ?[a-z]+"),
    "any number": re.compile(r" ?[0-9]+"),
    "any punctuation": re.compile(r" ?[^\w\s]+"),
    "any line break": re.compile(r"\s*\n\s*"),
}


@dataclass(frozen=True)
class TokenSet:
    """Tokens by their looks (`kind`, a key of `KINDS`) or one by one (`listed`)."""

    kind: str | None = None
    listed: tuple[str, ...] = ()

    def __contains__(self, token: str | None) -> bool:
        if token is None:
            return False
        if self.kind == "any token":
            return True
        if self.kind is None:
            return token in self.listed
        return KINDS[self.kind].fullmatch(token) is not None


ANY = TokenSet("any token")


@dataclass(frozen=True)
class Pattern:
    """A token in `token` for which every condition that is set holds.

    `previous` and `second_previous` are the tokens one and two before it, `next` the one after it:
    a feature does not see it, but may be about it. `earlier` lists tokens of which one stands
    anywhere before; `seen` says whether the token itself stood before, `previous_seen` whether the
    one before it did; `within` bounds its position, from 1.
    """

    token: TokenSet = ANY
    previous: TokenSet | None = None
    second_previous: TokenSet | None = None
    next: TokenSet | None = None
    earlier: tuple[str, ...] = ()
    seen: bool | None = None
    previous_seen: bool = False
    within: int | None = None

    @property
    def conditions(self) -> int:
        """Return how many conditions are set."""
        return sum(
            (
                self.previous is not None,
                self.second_previous is not None,
                self.next is not None,
                bool(self.earlier),
                self.seen is not None,
                self.previous_seen,
                self.within is not None,
            )
        )

    def holds(self, tokens: Sequence[str], at: int) -> bool:
        """Say whether the pattern matches at position `at`, from 0."""
        if tokens[at] not in self.token:
            return False
        before = tokens[:at]
        previous = before[-1] if at >= 1 else None
        return (
            (self.previous is None or previous in self.previous)
            and (self.second_previous is None or (at >= 2 and before[-2] in self.second_previous))
            and (self.next is None or (at + 1 < len(tokens) and tokens[at + 1] in self.next))
            and (not self.earlier or any(token in self.earlier for token in before))
            and (self.seen is None or (tokens[at] in before) == self.seen)
            and (not self.previous_seen or (at >= 1 and previous in before[:-1]))
            and (self.within is None or at < self.within)
        )


def match(patterns: Sequence[Pattern], tokens: Sequence[str]) -> list[bool]:
    """Return at which tokens [T] any of the patterns matches."""
    return [any(p.holds(tokens, at) for p in patterns) for at in range(len(tokens))]
