"""Learn few patterns that say where a feature fires: beam search inside a greedy set cover."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from pie_jax.features.texts import TokenText
from pie_jax.patterns.pattern import ANY, KINDS, Pattern, TokenSet
from pie_jax.patterns.positions import FIELDS, NONE, Positions, tabulate

MOST_PATTERNS = 3
MOST_CONDITIONS = 3
_BEAM = 6
_LISTED = 12
_EARLIER = 6
_SURE = (0.4, 0.8)
_MOST = 0.95
_STARTS = (1, 2, 4)
# The square of beta in F-beta: how much missed activation counts beside false matches.
_BETA_SQUARED = 0.25
# What a pattern, a condition and a listed token must add to F0.5 to be worth their words.
_PER_PATTERN, _PER_CONDITION, _PER_TOKEN = 0.02, 0.01, 0.003


@dataclass(frozen=True)
class _Rule:
    pattern: Pattern
    matches: np.ndarray
    worth: float


def learn_patterns(texts: Sequence[TokenText], most: int = MOST_PATTERNS) -> tuple[Pattern, ...]:
    """Return at most `most` patterns for where a feature fires in windows; none if nowhere.

    Best is F0.5 of activation: recall is the share of activation on matched tokens, precision
    weighs each matched token by its activation against those where the feature is silent, and
    counts double: what a sentence says should be true before it is complete.
    """
    positions = tabulate(texts) if any(text.tokens for text in texts) else None
    if positions is None or not positions.gain.any():
        return ()
    if len(np.unique(positions.window[positions.gain > 0])) < 2:
        return (_strongest_token(positions),)
    covered = np.zeros(len(positions.gain), bool)
    chosen: list[Pattern] = []
    while len(chosen) < most:
        best = _best_rule(positions, covered)
        if best.worth <= _quality(positions, covered) + _PER_PATTERN * bool(chosen):
            break
        chosen.append(best.pattern)
        covered |= best.matches
    return tuple(chosen) or (_strongest_token(positions),)


def _best_rule(positions: Positions, covered: np.ndarray) -> _Rule:
    """Return the rule whose union with what is covered is worth most."""
    every = np.ones(len(covered), bool)
    everything = _Rule(Pattern(), every, _worth(positions, Pattern(), every, covered))
    beam: list[_Rule] = [everything]
    best: _Rule | None = None
    for _ in range(MOST_CONDITIONS):
        found: dict[Pattern, _Rule] = {}
        for rule in beam:
            for pattern, matches in _refinements(positions, rule, covered):
                if pattern not in found:
                    found[pattern] = _Rule(
                        pattern, matches, _worth(positions, pattern, matches, covered)
                    )
        beam = sorted(found.values(), key=lambda rule: -rule.worth)[:_BEAM]
        if not beam or (best and beam[0].worth <= best.worth):
            break
        best = _trimmed(positions, beam[0], covered)
    return best if best and best.worth > everything.worth else everything


def _worth(
    positions: Positions, pattern: Pattern, matches: np.ndarray, covered: np.ndarray
) -> float:
    sets = [getattr(pattern, name) for name in FIELDS]
    listed = len(pattern.earlier) + sum(len(s.listed) for s in sets if s)
    cost = _PER_CONDITION * pattern.conditions + _PER_TOKEN * listed
    return _quality(positions, covered | matches) - cost


def _quality(positions: Positions, matches: np.ndarray) -> float:
    gain = positions.gain[matches].sum()
    wrong = positions.silent[matches].sum()
    return float(_f_beta(gain, wrong, positions.gain.sum()))


def _f_beta(gain: np.ndarray, wrong: np.ndarray, total: float) -> np.ndarray:
    """Return F-beta from matched activation, matched silent tokens and all activation."""
    return (1 + _BETA_SQUARED) * gain / (gain + wrong + _BETA_SQUARED * total)


def _refinements(
    positions: Positions, rule: _Rule, covered: np.ndarray
) -> Iterator[tuple[Pattern, np.ndarray]]:
    """Yield the rule with one condition more, and where it then matches."""
    for name in FIELDS:
        if getattr(rule.pattern, name) in (None, ANY):
            for tokens, member in _token_sets(positions, name, rule.matches, covered):
                matches = rule.matches & member[positions.values[name]]
                yield replace(rule.pattern, **_change(name, tokens)), matches
    for field, value, where in _flags(positions, rule):
        yield replace(rule.pattern, **_change(field, value)), rule.matches & where


def _change(field: str, value: object) -> dict[str, Any]:
    return {field: value}


def _token_sets(
    positions: Positions, name: str, matches: np.ndarray, covered: np.ndarray
) -> Iterator[tuple[TokenSet, np.ndarray]]:
    """Yield sets of tokens for one field and their members [strings]."""
    for index, kind in enumerate(KINDS):
        if kind != ANY.kind:
            yield TokenSet(kind), positions.kinds[:, index]
    tally = _tally(positions, name, matches & ~covered)
    ranked = np.argsort(-tally.gain, kind="stable")[: int((tally.gain > 0).sum())]
    share = tally.gain[ranked] / (tally.gain + tally.wrong)[ranked]
    sets = [
        _best_part(positions, tally, ranked[share >= sure][:_LISTED], covered) for sure in _SURE
    ]
    # What most of the activation is on, however often it is silent: other conditions may tell.
    sets.append(ranked[: 1 + int((np.cumsum(tally.gain[ranked]) < _MOST * tally.gain.sum()).sum())])
    for chosen in sets:
        if len(chosen):
            yield _listed(positions, chosen[:_LISTED])


class _Tally(NamedTuple):
    """Activation and silent tokens by value of a field, [strings] each."""

    gain: np.ndarray
    wrong: np.ndarray


def _tally(positions: Positions, name: str, where: np.ndarray) -> _Tally:
    """Add up tokens by value; values that fire in one window only do not count as firing."""
    value, size = positions.values[name][where], len(positions.strings)
    gain = np.bincount(value, positions.gain[where], size)
    gain[~positions.recurs[name]] = 0
    gain[NONE] = 0
    return _Tally(gain, np.bincount(value, positions.silent[where], size))


def _best_part(
    positions: Positions, tally: _Tally, ranked: np.ndarray, covered: np.ndarray
) -> np.ndarray:
    """Return the first of `ranked` values, as many as are worth listing."""
    if not len(ranked):
        return ranked
    gain = positions.gain[covered].sum() + np.cumsum(tally.gain[ranked])
    wrong = positions.silent[covered].sum() + np.cumsum(tally.wrong[ranked])
    quality = _f_beta(gain, wrong, positions.gain.sum())
    return ranked[: 1 + int(np.argmax(quality - _PER_TOKEN * np.arange(len(ranked))))]


def _listed(positions: Positions, values: np.ndarray) -> tuple[TokenSet, np.ndarray]:
    member = np.zeros(len(positions.strings), bool)
    member[values] = True
    return TokenSet(listed=tuple(positions.strings[i] for i in values)), member


def _trimmed(positions: Positions, rule: _Rule, covered: np.ndarray) -> _Rule:
    """Drop listed tokens that are not worth their words now that all conditions are known."""
    for name in FIELDS:
        tokens = getattr(rule.pattern, name)
        if tokens is None or not tokens.listed:
            continue
        tally = _tally(positions, name, rule.matches & ~covered)
        ranked = np.argsort(-tally.gain, kind="stable")[: int((tally.gain > 0).sum())]
        if len(ranked):
            kept, member = _listed(positions, _best_part(positions, tally, ranked, covered))
            matches = rule.matches & member[positions.values[name]]
            pattern = replace(rule.pattern, **_change(name, kept))
            rule = _Rule(pattern, matches, _worth(positions, pattern, matches, covered))
    return rule


def _flags(positions: Positions, rule: _Rule) -> Iterator[tuple[str, object, np.ndarray]]:
    if rule.pattern.seen is None:
        yield "seen", True, positions.seen
        yield "seen", False, ~positions.seen
    if not rule.pattern.previous_seen:
        yield "previous_seen", True, positions.previous_seen
    if rule.pattern.within is None:
        for first in _STARTS:
            yield "within", first, positions.at < first
    # Beyond the first step only: alone, a token long ago says little and costs much time.
    if not rule.pattern.earlier and rule.pattern != Pattern():
        for value, where in _earlier(positions, rule.matches):
            yield "earlier", (positions.strings[value],), where


def _earlier(positions: Positions, matches: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the tokens that are in windows with matched firing tokens only, the best ones."""
    token, window = positions.values["token"], positions.window
    fires, silent = (
        np.unique(window[matches & chosen]) for chosen in (positions.gain > 0, positions.silent)
    )
    only = np.setdiff1d(fires, silent)
    pairs = np.unique(np.stack([token, window]), axis=1)
    count = np.bincount(pairs[0][np.isin(pairs[1], only)], minlength=len(positions.strings))
    against = np.bincount(pairs[0][np.isin(pairs[1], silent)], minlength=len(positions.strings))
    lift = count / max(len(only), 1) - against / max(len(silent), 1)
    for value in np.argsort(-lift, kind="stable")[:_EARLIER]:
        if lift[value] > 0:
            yield int(value), positions.before(int(value))


def _strongest_token(positions: Positions) -> Pattern:
    value = positions.values["token"][int(positions.gain.argmax())]
    return Pattern(TokenSet(listed=(positions.strings[value],)))
