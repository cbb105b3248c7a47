"""ACDC-style pruning equals the sequential loop, one forward pass a test."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import jax.numpy as jnp
import numpy as np
import pytest
from prune_helpers import SlowPrompt, prepare, tiny_model, tiny_pairs, tiny_transcoder

from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.methods import METHODS, acdc, run_method
from pie_jax.prune.methods.acdc import sweep
from pie_jax.prune.options import AcdcOptions, PruneOptions

# Nats, of KL divergences in float32; a rise so near tau may fall on either side.
TOLERANCE = 2e-5
PROMPTS = range(2)


@dataclass(eq=False)
class Case:
    """Two tiny prompts with some forty occurrences each, the fast way and the slow way."""

    inputs: BatchEvaluator
    slow: list[SlowPrompt]

    @cached_property
    def size(self) -> int:
        return self.inputs.occurrences.layer.shape[1]

    def rises(self, block: int, taus: np.ndarray) -> np.ndarray:
        """Return the rise at each occurrence's test, [B, J, N], NaN for padding."""
        visits = np.full((len(PROMPTS), self.size), -1, np.int32)
        for prompt in PROMPTS:
            count = self.slow[prompt].count
            visits[prompt, :count] = np.arange(count)[::-1]
        blocks = jnp.asarray(visits.reshape(len(PROMPTS), -1, block))
        found = np.asarray(sweep(self.inputs.problem, blocks, jnp.asarray(taus, jnp.float32)))
        out = np.full((len(PROMPTS), taus.shape[1], self.size), np.nan)
        for prompt in PROMPTS:
            real = visits[prompt] >= 0
            flat = found[prompt].reshape(taus.shape[1], -1)
            assert np.isinf(flat[:, ~real]).all()
            out[prompt][:, visits[prompt][real]] = flat[:, real]
        return out


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    model = tiny_model(tmp_path_factory.mktemp("tiny"), layers=2)
    transcoder = tiny_transcoder(model, 16, bias=-3.5, scale=2.0)
    inputs = prepare(model, transcoder, tiny_pairs([10, 9]), PruneOptions(batch_size=2))
    slow = [SlowPrompt(inputs, transcoder, prompt) for prompt in PROMPTS]
    assert all(30 <= prompt.count <= 50 for prompt in slow)
    return Case(inputs, slow)


def slow_sweep(slow: SlowPrompt, tau: float, block: int = 1) -> dict[int, float]:
    """Visit from the last layer to the first; return each one's rise of KL when it was tested."""
    removed: list[int] = []
    rises: dict[int, float] = {}
    order = list(range(slow.count))[::-1]
    for start in range(0, len(order), block):
        before = slow.kl(removed)
        members = order[start : start + block]
        for n in members:
            rises[n] = slow.kl([*removed, n]) - before
        removed += [n for n in members if rises[n] < tau]
    return rises


def gap(rises: dict[int, float], tau: float) -> float:
    return min(abs(rise - tau) for rise in rises.values())


TAUS = np.array([[1e-4, 1e-2, 0.1], [3e-4, 3e-2, 0.3]])


@pytest.mark.parametrize("block", [1, 4])
def test_equals_the_sequential_loop(case: Case, block: int):
    ours = case.rises(block, TAUS)
    removed = set()
    for prompt in PROMPTS:
        for at, tau in enumerate(TAUS[prompt]):
            theirs = slow_sweep(case.slow[prompt], tau, block)
            assert gap(theirs, tau) > TOLERANCE, "choose another tau: this one decides nothing"
            found = ours[prompt, at, : case.slow[prompt].count]
            expected = np.array([theirs[n] for n in range(len(theirs))])
            np.testing.assert_allclose(found, expected, atol=TOLERANCE)
            np.testing.assert_array_equal(found < tau, expected < tau)
            removed.add(int((found < tau).sum()))
    assert len(removed) > 2


def test_a_block_is_not_the_sequence(case: Case):
    """Within a block the running state is the block's first: the rises differ."""
    one, four = case.rises(1, TAUS), case.rises(4, TAUS)
    assert np.nanmax(np.abs(one - four)) > 100 * TOLERANCE


def slow_select(
    slow: SlowPrompt, budget: int, low: float, high: float, bisections: int
) -> tuple[set[int], dict[int, float]]:
    """Bisect tau on a log scale; return the kept set and the rises that decided it.

    The largest set within the budget is filled up, or else the smallest one is cut.
    """
    sweeps: list[tuple[int, dict[int, float]]] = []
    for _ in range(bisections):
        tau = math.sqrt(low * high)
        rises = slow_sweep(slow, tau)
        assert gap(rises, tau) > TOLERANCE, "choose other bounds: rounding decides here"
        kept = sum(rise >= tau for rise in rises.values())
        sweeps.append((kept, rises))
        low, high = (low, tau) if kept <= budget else (tau, high)
    # Of equals the first, as `max` and `min` have it.
    within = [sweep for sweep in sweeps if sweep[0] <= budget]
    if within:
        _, best = max(within, key=lambda sweep: sweep[0])
    else:
        _, best = min(sweeps, key=lambda sweep: sweep[0])
    order = sorted(best, key=lambda n: -best[n])
    return set(order[:budget]), best


@pytest.mark.parametrize(
    ("low", "high", "bisections"),
    [
        pytest.param(1e-3, 100.0, 7, marks=pytest.mark.slow),
        (1e-3, 0.02, 4),
    ],
)
def test_selection_bisects_to_the_budget_and_fills_it(
    case: Case, monkeypatch: pytest.MonkeyPatch, low: float, high: float, bisections: int
):
    """With taus above the noise of float32, so that both sides take the same decisions; in the
    last case every tau leaves too many for the small budgets."""
    monkeypatch.setattr(acdc, "_LOW", low)
    monkeypatch.setattr(acdc, "_HIGH", high)
    acdc_options = AcdcOptions(block=1, bisections=bisections)
    case.inputs.options = replace(case.inputs.options, acdc=acdc_options)
    budgets = (1, 2, 3, 4, 5, 12)
    found = run_method(METHODS["acdc"], case.inputs, budgets)
    tied = 0
    for budget, selection in zip(budgets, found, strict=True):
        assert selection.kept.shape == (len(PROMPTS), budget)
        for prompt in PROMPTS:
            ours = selection.kept[prompt].tolist()
            assert len(set(ours)) == budget
            theirs, rises = slow_select(case.slow[prompt], budget, low, high, bisections)
            # What fills up may be as good as nothing, and then swap with its like.
            swapped = [rises[n] for n in set(ours) ^ theirs]
            assert not swapped or max(swapped) - min(swapped) < TOLERANCE
            tied += bool(swapped)
            # Best first, by how much KL rose.
            assert (np.diff(selection.score[prompt]) <= 0).all()
    assert tied <= 2


def test_more_budget_than_occurrences_keeps_all(case: Case):
    case.inputs.options = replace(case.inputs.options, acdc=AcdcOptions(block=16, bisections=3))
    (selection,) = run_method(METHODS["acdc"], case.inputs, (70,))
    for prompt in PROMPTS:
        count = case.slow[prompt].count
        assert sorted(selection.kept[prompt, :count].tolist()) == list(range(count))
        assert (selection.kept[prompt, count:] == -1).all()
        assert not selection.score[prompt, count:].any()
