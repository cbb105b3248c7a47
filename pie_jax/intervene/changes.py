"""Changes of features: what is asked for, how it is written, and what each means on a prompt.

Shapes: S lists of changes, C features a list, P positions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pie_jax.errors import InputError, whole_number
from pie_jax.features.records import FeatureKey
from pie_jax.transcoders.modules import ZEROED_POSITIONS

_WRITTEN = re.compile(r"(\d+):(\d+)@(all|-?\d+|(-?\d+)?:(-?\d+)?)=(off|x?[-+.\deE]+)")
_FORM = "LAYER:FEATURE@POSITION=VALUE, such as 2:17@5=3.5, 2:17@3:=x2, 2:17@2:6=0 or 2:17@all=off"


@dataclass(frozen=True)
class Change:
    """A new activation of one feature at one or several positions of a prompt.

    `position` counts tokens from 0, which is BOS; negative ones count from the prompt's end. A
    slice without end goes on to the last token, and through all that is generated. BOS is left out
    of slices: features are not defined there. Exactly one of the others is given: `value`, the new
    activation itself, whatever its sign; `scale`, times the activation on the unchanged prompt;
    `remove`, the same as a value of 0.
    """

    layer: int
    feature: int
    position: int | slice
    value: float | None = None
    scale: float | None = None
    remove: bool = False

    def __post_init__(self) -> None:
        for name in ("layer", "feature"):
            number = whole_number(getattr(self, name), f"change {self}: {name}")
            object.__setattr__(self, name, number)
        object.__setattr__(self, "position", _whole(self.position, f"change {self}: position"))
        given = [self.value is not None, self.scale is not None, self.remove]
        if sum(given) != 1:
            raise InputError(f"change {self}: give exactly one of value, scale and remove.")
        amount = self.value if self.scale is None else self.scale
        if amount is not None and not math.isfinite(amount):
            raise InputError(f"change {self}: {amount} is no activation; give a finite number.")
        if isinstance(self.position, slice) and self.position.step not in (None, 1):
            raise InputError(f"change {self}: a slice of positions has no step.")

    def __str__(self) -> str:
        """Return the change as the command line reads it."""
        at = self.position
        if isinstance(at, slice):
            ends = ["" if end is None else str(end) for end in (at.start, at.stop)]
            where = "all" if ends == ["", ""] else ":".join(ends)
        else:
            where = str(at)
        amount = "off" if self.remove else f"{self.value}"
        amount = amount if self.scale is None else f"x{self.scale}"
        return f"{self.layer}:{self.feature}@{where}={amount}"

    @property
    def key(self) -> FeatureKey:
        """Return which feature is changed."""
        return FeatureKey(self.layer, self.feature)


def _whole(position: int | slice, what: str) -> int | slice:
    if not isinstance(position, slice):
        return whole_number(position, what)
    ends = (position.start, position.stop)
    start, stop = (None if end is None else whole_number(end, what) for end in ends)
    return slice(start, stop, position.step)


def parse_change(text: str) -> Change:
    """Read a change as it is written on the command line. Raises `InputError`."""
    found = _WRITTEN.fullmatch(text.replace(" ", ""))
    if found is None:
        raise InputError(f"--change: `{text}` is not of the form {_FORM}.")
    layer, feature, where, start, stop, amount = found.groups()

    def end(number: str | None) -> int | None:
        return None if number is None else int(number)

    plain = where != "all" and ":" not in where
    position = int(where) if plain else slice(end(start), end(stop))
    try:
        number = None if amount == "off" else float(amount.removeprefix("x"))
    except ValueError as error:
        raise InputError(f"--change: `{text}`: `{amount}` is not a number.") from error
    scales = amount.startswith("x")
    return Change(
        int(layer),
        int(feature),
        position,
        value=None if scales else number,
        scale=number if scales else None,
        remove=number is None,
    )


def as_lists(
    changes: Sequence[Change] | Sequence[Sequence[Change]],
) -> tuple[list[Sequence[Change]], bool]:
    """Return lists of changes that are made at once, and whether only one was given by itself."""
    single = [change for change in changes if isinstance(change, Change)]
    several = [each for each in changes if not isinstance(each, Change)]
    if single and several:
        raise InputError("changes: give a list of changes, or lists of them, not both.")
    return ([single], True) if not several else (several, False)


class Placed(NamedTuple):
    """What a list of changes means on one prompt: `on` [C, P] where a feature is changed, to
    `value` [C, P] plus `scale` [C, P] times its activation on the unchanged prompt."""

    on: np.ndarray
    value: np.ndarray
    scale: np.ndarray


def features_of(changes: Sequence[Change]) -> list[FeatureKey]:
    """Return the features of a list of changes, each once, in their order."""
    return list(dict.fromkeys(change.key for change in changes))


def placed(
    changes: Sequence[Change], length: int, total: int, sizes: tuple[int, int], prompt: str
) -> Placed:
    """Return what changes mean on a prompt of `length` tokens that may go on to `total`.

    `sizes` are C and P, at least the number of features and `total`; `prompt` names it in messages.
    Raises `InputError` for positions beyond it, at BOS, or given twice for a feature.
    """
    out = Placed(np.zeros(sizes, bool), np.zeros(sizes, np.float32), np.zeros(sizes, np.float32))
    rank = {key: row for row, key in enumerate(features_of(changes))}
    for change in changes:
        row, at = rank[change.key], _positions(change, length, total, prompt)
        if out.on[row, at].any():
            twice = int(np.flatnonzero(out.on[row, at])[0]) + at.start
            raise InputError(
                f"change {change}: position {twice} of this feature has another change already; "
                "name each position once."
            )
        out.on[row, at] = True
        out.value[row, at] = change.value or 0.0
        out.scale[row, at] = change.scale or 0.0
    return out


def _positions(change: Change, length: int, total: int, prompt: str) -> slice:
    """Return the positions of a change, none of them BOS."""
    at = change.position
    if not isinstance(at, slice):
        index = at + length if at < 0 else at
        if not 0 <= index < total:
            raise InputError(
                f"change {change}: {prompt} has no position {at}; it has {length} tokens, BOS "
                f"counted, so positions are {ZEROED_POSITIONS} to {total - 1}."
            )
        if index < ZEROED_POSITIONS:
            raise InputError(
                f"change {change}: position {at} is BOS, where features are not defined; positions "
                f"are {ZEROED_POSITIONS} to {total - 1}."
            )
        return slice(index, index + 1)

    def end(number: int | None, otherwise: int) -> int:
        if number is None:
            return otherwise
        return max(0, min(number + length if number < 0 else number, total))

    start, stop = max(end(at.start, 0), ZEROED_POSITIONS), end(at.stop, total)
    if start >= stop:
        raise InputError(
            f"change {change}: holds no position of {prompt}, which has {length} tokens, BOS "
            "counted; BOS itself is left out."
        )
    return slice(start, stop)
