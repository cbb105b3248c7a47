"""Windows and texts as strings of tokens, the form that explainers, judges and patterns share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pie_jax.features.records import Window

# A token that holds a part of a character decodes to this.
_BROKEN = "\ufffd"
# Tokens above this share of a window's maximum are marked (the published prompt's value).
MARK_SHARE = 0.6


class ShowsTokens(Protocol):
    """What is needed of `pie_jax.models.tokenizer.ShowsTokens`."""

    def encode(self, text: str) -> list[int]:
        """Return a text's ids, BOS in front."""
        ...

    def token(self, index: int) -> str:
        """Return one id as text."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return ids as text."""
        ...


@dataclass(frozen=True)
class TokenText:
    """A text as `tokens` [T] without BOS, and one feature's `activations` [T], empty if unknown."""

    tokens: tuple[str, ...]
    activations: tuple[float, ...] = ()

    @property
    def text(self) -> str:
        """Return the plain text."""
        return "".join(self.tokens)

    @property
    def maximum(self) -> float:
        """Return the largest activation."""
        return max(self.activations, default=0.0)

    def strongest(self, share: float = MARK_SHARE) -> frozenset[int]:
        """Return the positions above `share` of the text's own maximum; none where it is 0."""
        least = share * self.maximum
        if not least > 0:
            return frozenset()
        return frozenset(i for i, value in enumerate(self.activations) if value > least)

    def marked(self, positions: frozenset[int]) -> str:
        """Return the text with runs of `positions` as <<tokens>>; marks in the text are broken."""
        parts: list[str] = []
        for i, token in enumerate(self.tokens):
            opens = i in positions and i - 1 not in positions
            closes = i in positions and i + 1 not in positions
            parts.append("<<" * opens + _unmarked(token) + ">>" * closes)
        return "".join(parts)


def token_strings(tokenizer: ShowsTokens, ids: Sequence[int]) -> tuple[str, ...]:
    """Return ids one string each; a character spread over tokens stands with the first of them."""
    strings = [tokenizer.token(int(index)) for index in ids]
    start = 0
    while start < len(strings):
        end = start
        while end < len(strings) and _BROKEN in strings[end]:
            end += 1
        if end - start > 1:
            strings[start] = tokenizer.decode([int(index) for index in ids[start:end]])
            strings[start + 1 : end] = [""] * (end - start - 1)
        start = max(end, start + 1)
    return tuple(strings)


def window_text(tokenizer: ShowsTokens, window: Window) -> TokenText:
    """Return a window without its BOS."""
    activations = tuple(float(value) for value in np.asarray(window.activations)[1:])
    return TokenText(token_strings(tokenizer, window.tokens[1:].tolist()), activations)


def text_ids(tokenizer: ShowsTokens, text: str) -> list[int]:
    """Return the ids, BOS in front, of a text that may be put together from strings of tokens.

    Where the tokenizer puts a space in front by itself, the one that the text begins with is it.
    """
    if text.startswith(" "):
        bare = tokenizer.encode(text[1:])
        if "".join(token_strings(tokenizer, bare[1:])) == text:
            return bare
    return tokenizer.encode(text)


def split_text(tokenizer: ShowsTokens, text: str) -> TokenText:
    """Return a text as the model reads it, without BOS."""
    return TokenText(token_strings(tokenizer, text_ids(tokenizer, text)[1:]))


Reader = Callable[[Window], TokenText]


def _unmarked(token: str) -> str:
    return token.replace("<<", "< <").replace(">>", "> >")
