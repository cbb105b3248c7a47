"""The best circuit of every budget, from the smallest up: each may hold on to the one before it.

What a budget chooses from, by exact KL: the grown circuit; those of FAP and RelP; the circuit of
the budget before, completed by the largest scores; and one that is learned, which goes on from
that one where it is well below the grown one. A first-order gain at a circuit says what to add
next, but many additions that each lower KL overshoot together. Scores by magnitude keep what pulls
either way, and hold where a circuit is a good part of everything.

Shapes: B batch, S budgets, P candidates, K the largest budget. All on the host.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from pie_jax.devices.mesh import fetch
from pie_jax.devices.programs import program
from pie_jax.prune.engine.selection import PADDING
from pie_jax.prune.search.circuits import Circuits, member_mask
from pie_jax.prune.search.fallback import RULES
from pie_jax.prune.search.learn import learn, warm_logits
from pie_jax.prune.search.narrow import narrowed
from pie_jax.prune.search.shared import Search
from pie_jax.prune.search.space import Space, circuit_kl, map_prompts, side_by_side

# KL of a circuit, as a share of that with nothing kept, below which it is not improved.
SOLVED = 0.003
# Learning goes on where the circuit before has at most so much of the grown one's KL. Then a member
# of the best circuit so far has so much on top of its logit, and so much is left of the rate.
_AHEAD, _HELD, _ON = 0.8, 0.3, 0.5
# What two programs round differently counts as equal.
_EQUAL = 1e-5


class Choice(NamedTuple):
    """A circuit a prompt: `members` [B, K], -1 up to K; `kl` [B] nats; `score` [B, K]."""

    members: np.ndarray
    kl: np.ndarray
    score: np.ndarray


def climb(search: Search) -> Circuits:
    """Return the best circuits found for every budget; of a member, its gain where the circuit was
    grown or learned, else its mean gain along the growing path."""
    order, rules = np.argsort(search.budgets, kind="stable"), _rules(search)
    null, grown = fetch(search.null), _choice(search.grown)
    completing = [rules[RULES.index("relp")], np.abs(fetch(search.worth))]
    learning = _Learning(search)
    found: dict[int, Choice] = {}
    best: Choice | None = None
    ahead = np.zeros(len(null), bool)
    for s in order.tolist():
        size, before = search.budgets[s], best
        best = Choice(*(part[:, s] for part in grown))
        best = _best_of_two(search, best, [_largest(search, by, size) for by in rules])
        if before is not None and (open_ := best.kl > SOLVED * null).any():
            longer = [_completed(search, before, by, size) for by in completing]
            best = _better(best, _best_of_two(search, best, longer), open_)
        if (open_ := best.kl > SOLVED * null).any():
            learned = learning.step(size, best.members, ahead, open_)
            best = _better(best, learned, open_)
        found[s] = best
        ahead = best.kl < _AHEAD * grown.kl[:, s]
    put = search.inputs.put
    parts = zip(*(found[s] for s in range(len(order))), strict=True)
    members, kl, gain = (put(np.stack(part, axis=1)) for part in parts)
    return Circuits(members, kl, kl, gain)


def _choice(circuits: Circuits) -> Choice:
    return Choice(*map(fetch, (circuits.members, circuits.kl, circuits.gain)))


def _exact(search: Search, members: np.ndarray) -> np.ndarray:
    """Return the KL of circuits [B, 2, K] in nats, [B, 2]."""
    chunk = side_by_side(search.inputs, 1)
    return fetch(_kls(search.space, search.inputs.put(members), chunk))


def _rules(search: Search) -> list[np.ndarray]:
    """Return the gradient scores of the candidates by magnitude, [B, P] each."""
    return [np.abs(search.of_candidates(search.inputs.attribution(rule))) for rule in RULES]


def _largest(search: Search, score: np.ndarray, size: int) -> np.ndarray:
    """Return the `size` candidates of the largest scores, [B, K]; of equal ones, the first."""
    score = np.where(fetch(search.space.real), score, -np.inf)
    order = np.argsort(-score, axis=1, kind="stable")[:, :size].astype(np.int32)
    order = np.where(np.take_along_axis(score, order, axis=1) > -np.inf, order, PADDING)
    return np.pad(
        order, ((0, 0), (0, max(search.budgets) - order.shape[1])), constant_values=PADDING
    )


def _completed(search: Search, circuit: Choice, score: np.ndarray, size: int) -> np.ndarray:
    """Return a circuit's members and the candidates of the largest scores beside them."""
    return _largest(
        search, np.where(member_mask(circuit.members, score.shape[1]), np.inf, score), size
    )


def _best_of_two(search: Search, best: Choice, tried: list[np.ndarray]) -> Choice:
    """Return the best of a circuit and two others, which are measured."""
    kl = _exact(search, np.stack(tried, axis=1))
    worth = fetch(search.worth)
    for at, one in enumerate(tried):
        score = np.take_along_axis(worth, np.maximum(one, 0), axis=1)
        best = _better(best, Choice(one, kl[:, at], np.where(one >= 0, score, 0.0)))
    return best


def _better(old: Choice, new: Choice, use: np.ndarray | bool = True) -> Choice:
    """Return for every prompt the circuit of the lower KL; the old one where `use` is not set."""
    better = use & (new.kl < (1 - _EQUAL) * old.kl)
    row = better[:, None]
    return Choice(
        np.where(row, new.members, old.members),
        np.where(better, new.kl, old.kl),
        np.where(row, new.score, old.score),
    )


class _Learning:
    """Learning among the candidates of most worth, from what they are worth, or from where the
    budget before ended."""

    def __init__(self, search: Search):
        self._search = search
        most = search.most_learned()
        self._narrow = narrowed(search.inputs, search.weighed, search.worth, most)
        score = fetch(self._narrow.score)
        self._start = self._last = warm_logits(np.zeros_like(score)[:, None], score)

    def step(self, size: int, held: np.ndarray, on: np.ndarray, use: np.ndarray) -> Choice:
        """Return the best circuit seen, [B, K]; those in `on` [B] go on from their last logits and
        hold on to a circuit `held` [B, K], and those not in `use` [B] learn nothing for later."""
        search, of = self._search, fetch(self._narrow.of)
        mask = member_mask(held, search.space.occurrence.shape[1])
        mask = on[:, None] & (of >= 0) & np.take_along_axis(mask, np.maximum(of, 0), axis=1)
        bonus = np.float32(_HELD) * mask[:, None]
        logits = np.where(on[:, None, None], self._last, self._start) + bonus
        rate = np.where(on, np.float32(_ON), np.float32(1)) * np.float32(search.options.rate)
        put = search.inputs.put
        settings = search.settings((size,), put(rate))
        found, after = learn(self._narrow.space, put(logits), *settings)
        # What a prompt gets does not depend on the others of its batch.
        self._last = np.where(use[:, None, None], fetch(after) - bonus, self._last)
        return Choice(*(part[:, 0] for part in _choice(self._narrow.widened(found))))


@program("chunk")
def _kls(space: Space, members: Int[Array, "B S K"], chunk: int) -> Float[Array, "B S"]:
    """Return the KL of circuits, in nats."""

    def one(space: Space, members: Array) -> Array:
        return jax.vmap(partial(circuit_kl, space))(members)

    return map_prompts(one, chunk, space, members)
