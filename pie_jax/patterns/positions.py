"""The tokens of many windows as columns, one entry a token, for learning patterns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pie_jax.features.texts import TokenText
from pie_jax.patterns.pattern import KINDS

# Each field with how many tokens before the one in question it is.
FIELDS = {"token": 0, "previous": 1, "second_previous": 2, "next": -1}
NONE = 0


@dataclass(frozen=True)
class Positions:
    """N tokens of some windows.

    `values` [N] for each field the number of its string in `strings`, 0 where there is none;
    `kinds` [strings, kinds] membership; `gain` [N] activation over the largest one; `silent` [N]
    where it is 0; `seen`, `previous_seen`, `at` and `window` [N] as in `Pattern`; `recurs` for each
    field which values [strings] fire in more than one window.
    """

    strings: tuple[str, ...]
    values: dict[str, np.ndarray]
    kinds: np.ndarray
    gain: np.ndarray
    silent: np.ndarray
    seen: np.ndarray
    previous_seen: np.ndarray
    at: np.ndarray
    window: np.ndarray
    recurs: dict[str, np.ndarray]

    def before(self, value: int) -> np.ndarray:
        """Return which tokens [N] stand after a given one in the same window."""
        start = np.flatnonzero(self.at == 0)
        counts = np.cumsum(self.values["token"] == value) - (self.values["token"] == value)
        return counts > counts[start][self.window]


def tabulate(texts: Sequence[TokenText]) -> Positions:
    """Return the tokens of windows as columns; windows without tokens are left out."""
    texts = [text for text in texts if text.tokens]
    strings = ("", *sorted({token for text in texts for token in text.tokens}))
    number = {string: index for index, string in enumerate(strings[1:], start=1)}
    codes = [np.array([number[token] for token in text.tokens], np.int64) for text in texts]
    values = {
        name: np.concatenate([_shifted(code, by) for code in codes]) for name, by in FIELDS.items()
    }
    seen = [_seen(code) for code in codes]
    activations = np.array([value for text in texts for value in text.activations])
    gain = activations / max(activations.max(initial=0.0), 1e-30)
    window = np.repeat(np.arange(len(codes)), [len(code) for code in codes])
    return Positions(
        strings=strings,
        values=values,
        kinds=_kinds(strings),
        gain=gain,
        silent=activations <= 0,
        seen=np.concatenate(seen),
        previous_seen=np.concatenate([np.r_[False, flags[:-1]] for flags in seen]),
        at=np.concatenate([np.arange(len(code)) for code in codes]),
        window=window,
        recurs={name: _recurs(value, window, gain, len(strings)) for name, value in values.items()},
    )


def _shifted(code: np.ndarray, by: int) -> np.ndarray:
    none = np.zeros(min(abs(by), len(code)), np.int64)
    if by < 0:
        return np.r_[code[-by:], none]
    return np.r_[none, code[: max(len(code) - by, 0)]]


def _seen(code: np.ndarray) -> np.ndarray:
    _, first = np.unique(code, return_index=True)
    return ~np.isin(np.arange(len(code)), first)


def _kinds(strings: Sequence[str]) -> np.ndarray:
    table = [[kind.fullmatch(s) is not None for kind in KINDS.values()] for s in strings]
    kinds = np.array(table, bool)
    kinds[NONE] = False
    return kinds


def _recurs(value: np.ndarray, window: np.ndarray, gain: np.ndarray, size: int) -> np.ndarray:
    fires = gain > 0
    pairs = np.unique(np.stack([value[fires], window[fires]]), axis=1)
    return np.bincount(pairs[0], minlength=size) > 1
