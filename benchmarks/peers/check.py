"""Checks, before anything is timed, that the peers compute what this package computes.

A peer that finds something else is a `PieError`, not a ratio.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.parts.prune_measure import Work
from pie_jax.errors import PieError
from pie_jax.prune.engine.selection import PADDING
from pie_jax.prune.methods import METHODS, run_method
from pie_jax.prune.options import PruneOptions
from pie_jax.prune.step import Pruner
from pie_jax.tasks import encode_pairs
from pie_jax.tasks.encode import EncodedPair

if TYPE_CHECKING:
    from benchmarks.peers.circuit_tracer import CircuitTracer
    from benchmarks.peers.loop import Attributed, Loop

BUDGET = 100
_SALT = f"synergy-{BUDGET}"
# Features of a prompt that circuit-tracer removes, one at a time.
_INTERVENTIONS = 5

# Relative to the largest of each kind; float32 on both sides.
_LOGIT_TOLERANCE = 1e-3
_SCORE_TOLERANCE = 1e-4
_KL_TOLERANCE = 1e-5  # nats


class Ours(NamedTuple):
    """What this package finds for one pair: what the peers have to agree with.

    `key` [N, 3] layer, position, feature; `score` [N]; `top` and `synergy` kept sets of keys at
    K = 100; `kl` a budget each; `logits` [T, V]; `draws` gives the random
    numbers that synergy starts from.
    """

    key: np.ndarray
    score: np.ndarray
    top: set[tuple[int, ...]]
    synergy: set[tuple[int, ...]]
    kl: np.ndarray
    logits: np.ndarray
    draws: Callable[[], np.random.Generator]


class Case(NamedTuple):
    """A pair of prompts, and what this package finds for it."""

    pair: EncodedPair
    ours: Ours


def cases(work: Work, count: int) -> list[Case]:
    """Return some pairs with what this package finds for them."""
    encoded, _ = encode_pairs(work.pairs, work.model.tokenizer, needs_target=True)
    by_row = {pair.index: pair for pair in encoded}
    options = PruneOptions(
        methods=("fap", "fap-synergy"), budgets=work.budgets, batch_size=work.batch_size
    )
    pruner = Pruner(work.model, work.transcoder, options)
    result: list[Case] = []
    for batch in work.batches():
        inputs = pruner.prepare(batch)
        scores = inputs.attribution(options.gradient)
        tops = run_method(METHODS["fap"], inputs, work.budgets)
        (synergy,) = run_method(METHODS["fap-synergy"], inputs, (BUDGET,))
        top = tops[work.budgets.index(BUDGET)].kept
        behaviour, _ = inputs.behaviour(_stacked([one.kept for one in tops]))
        occurrences = inputs.occurrences
        places = (occurrences.layer, occurrences.position, occurrences.feature)
        for b in range(batch.real):
            real = int(occurrences.count[b])
            key = np.stack([place[b, :real] for place in places], axis=1)
            pair = by_row[int(batch.rows[b])]

            def draws(b: int = b, inputs: Any = inputs) -> np.random.Generator:
                return inputs.generator(b, _SALT)

            ours = Ours(
                key, scores[b, :real], _keys(key, top[b]), _keys(key, synergy.kept[b]),
                behaviour.kl_last[b], _logits(work, pair), draws,
            )  # fmt: skip
            result.append(Case(pair, ours))
        if len(result) >= count:
            break
    return result[:count]


def check_loop(loop: Loop, case: Case, budgets: tuple[int, ...]) -> Attributed:
    """Raise `PieError` unless the loop finds what we do; return what it found."""
    import torch

    from benchmarks.peers.loop import rows_by_layer, rows_one_by_one

    pair, ours = case
    found = loop.attribute(pair, rows_by_layer)
    again = loop.attribute(pair, rows_one_by_one)
    if not torch.equal(found.score, again.score):
        raise PieError("the loop's two ways to align decoder rows give different scores.")
    with torch.no_grad():
        logits = loop.model(torch.tensor(pair.clean)).logits.numpy()
    _same("the loop's logits", logits, ours.logits, _LOGIT_TOLERANCE)
    key, score = found.found.key.numpy(), found.score.numpy()
    if not np.array_equal(key, ours.key):
        raise PieError("the loop finds other active features than this package does.")
    _same("the loop's scores", score, ours.score, _SCORE_TOLERANCE)
    order = np.argsort(-np.abs(score), kind="stable")[:BUDGET]
    _same_set("top scores", _keys(key, order), ours.top)
    kept = loop.synergy(pair, found, BUDGET, PruneOptions().synergy, ours.draws())
    _same_set("FAP-Synergy", _keys(key, np.array(kept)), ours.synergy)
    gap = np.abs(np.array(loop.kls(pair, found, budgets)) - ours.kl).max()
    if not gap <= _KL_TOLERANCE + _SCORE_TOLERANCE * np.abs(ours.kl).max():
        raise PieError(f"the loop's KL differs from this package's by up to {gap:.2g} nats.")
    return found


def check_tracer(tracer: CircuitTracer, loop: Loop, case: Case, found: Attributed) -> None:
    """Raise `PieError` unless circuit-tracer runs the same model and removes the same."""
    _same("circuit-tracer's logits", tracer.logits(case.pair).numpy(), case.ours.logits,
          _LOGIT_TOLERANCE)  # fmt: skip
    theirs = tracer.components(case.pair).activation_matrix.coalesce()
    active = found.found.clean > 0
    if not np.array_equal(theirs.indices().T.numpy(), found.found.key[active].numpy()):
        raise PieError("circuit-tracer finds other active features than this package does.")
    ours = found.found.clean[active].numpy()
    _same("circuit-tracer's activations", theirs.values().numpy(), ours, _SCORE_TOLERANCE)
    for index in removable(found):
        value = tracer.removed(case.pair, *intervention(found, index))
        expected = loop.removed(case.pair, found, [index])
        _same("circuit-tracer's interventions", np.array(value), np.array(expected),
              _LOGIT_TOLERANCE)  # fmt: skip


def removable(found: Attributed) -> list[int]:
    """Return the occurrences of the largest scores, as many as are removed one at a time."""
    return found.score.abs().argsort(descending=True, stable=True)[:_INTERVENTIONS].tolist()


def intervention(found: Attributed, index: int) -> tuple[tuple[int, int, int], float]:
    """Return the key of an occurrence and the activation that removes it."""
    layer, position, feature = found.found.key[index].tolist()
    return (layer, position, feature), float(found.found.corrupted[index])


def _stacked(kept: list[np.ndarray]) -> np.ndarray:
    widest = max(k.shape[1] for k in kept)
    padded = [np.pad(k, ((0, 0), (0, widest - k.shape[1])), constant_values=PADDING) for k in kept]
    return np.stack(padded, axis=1)


def _logits(work: Work, pair: EncodedPair) -> np.ndarray:
    return np.asarray(jax.jit(_run)(work.model.transformer, jnp.asarray(pair.clean)))


def _run(model: Any, tokens: jax.Array) -> jax.Array:
    return model(tokens).logits


def _keys(key: np.ndarray, kept: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(row) for row in key[kept[kept != PADDING]].tolist()}


def _same(what: str, theirs: np.ndarray, ours: np.ndarray, tolerance: float) -> None:
    gap, largest = np.abs(theirs - ours).max(), np.abs(ours).max()
    if not gap <= tolerance * largest:
        raise PieError(
            f"{what} differ from this package's by up to {gap:.2g}, the largest being "
            f"{largest:.2g}: nothing is compared."
        )


def _same_set(what: str, theirs: set[tuple[int, ...]], ours: set[tuple[int, ...]]) -> None:
    if theirs != ours:
        raise PieError(
            f"{what}: {len(theirs - ours)} of the {len(ours)} kept differ from this package's: "
            "nothing is compared."
        )
