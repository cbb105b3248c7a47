"""FAP-Synergy equals a loop over candidates and partners with one forward pass each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import median, median_low

import numpy as np
import pytest
from prune_helpers import SlowPrompt, prepare, tiny_model, tiny_pairs, tiny_transcoder

from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.methods import METHODS, fap_synergy, run_method
from pie_jax.prune.options import PruneOptions, SynergyOptions

# Boosts are ratios of effects in float32; candidates so near each other may swap.
TIE = 1e-3
# Every candidate meets every partner; a large weight, as few of the tiny ones cooperate.
SYNERGY = SynergyOptions(10.0, 50.0, boundary_cap=12, partners=6, partners_per_candidate=6)
PROMPTS = range(3)


@dataclass(eq=False)
class Case:
    """Three tiny prompts, the fast way and the slow way."""

    inputs: BatchEvaluator
    slow: list[SlowPrompt]

    def kept(self, options: SynergyOptions, budgets: tuple[int, ...]) -> list[np.ndarray]:
        """Return the kept sets [B, K] of each budget."""
        self.inputs.options = replace(self.inputs.options, synergy=options)
        return [s.kept for s in run_method(METHODS["fap-synergy"], self.inputs, budgets)]

    def boosts(self, options: SynergyOptions, budget: int) -> list[dict[int, float]]:
        """Return each prompt's candidates with their boosts."""
        scores, found = self.inputs.attribution("frozen"), self.inputs.occurrences
        rng = np.random.default_rng(0)
        plans = [
            fap_synergy.plan(scores[prompt], int(found.count[prompt]), budget, options, rng)
            for prompt in PROMPTS
        ]
        sets = np.stack([fap_synergy.removal_sets(plan, options) for plan in plans])
        effects = self.inputs.removal_effects(sets)
        out = []
        for plan, effect, score in zip(plans, effects, scores, strict=True):
            boost = fap_synergy.boosts(plan, effect, score, budget, options)
            out.append(dict(zip(plan.boundary.tolist(), boost.tolist(), strict=True)))
        return out

    def score(self, prompt: int) -> list[float]:
        return self.inputs.attribution("frozen")[prompt].tolist()


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    model = tiny_model(tmp_path_factory.mktemp("tiny"))
    transcoder = tiny_transcoder(model)
    inputs = prepare(model, transcoder, tiny_pairs([9, 12, 16]), PruneOptions(batch_size=3))
    return Case(inputs, [SlowPrompt(inputs, transcoder, prompt) for prompt in PROMPTS])


def slow_synergy(
    slow: SlowPrompt, score: list[float], budget: int, options: SynergyOptions
) -> tuple[list[int], dict[int, float]]:
    """Return the kept set and the candidates' boosts; every candidate meets every partner."""
    effects: dict[frozenset[int], float] = {}

    def effect(*removed: int) -> float:
        if frozenset(removed) not in effects:
            effects[frozenset(removed)] = slow.effect(removed)
        return effects[frozenset(removed)]

    order = sorted(range(slow.count), key=lambda n: -abs(score[n]))
    half = round(options.boundary_percent / 100 * budget * 0.5)
    core = order[: budget - half]
    boundary = order[budget - half : budget + half][: options.boundary_cap]
    partners = core[: options.partners]
    usual_score = median_low(abs(score[n]) for n in order[:budget])
    boost = {}
    for candidate in boundary:
        found = [
            effect(candidate, partner) - effect(candidate) - effect(partner)
            for partner in partners
            if effect(partner) > 0 and effect(candidate) > 0
        ]
        usual_effect = median(abs(effect(partner)) for partner in partners)
        synergy = max(0.0, median(found)) if found else 0.0
        own = abs(score[candidate]) / usual_score
        boost[candidate] = own + options.weight * synergy / usual_effect
    kept = core + sorted(boundary, key=lambda n: -boost[n])[: budget - len(core)]
    for n in order:
        if len(kept) < budget and n not in kept:
            kept.append(n)
    return kept, boost


def check(case: Case, options: SynergyOptions, budgets: tuple[int, ...]) -> int:
    """Compare kept sets; return in how many the synergy changed FAP's."""
    reranked = 0
    for budget, kept in zip(budgets, case.kept(options, budgets), strict=True):
        assert kept.shape == (len(PROMPTS), budget)
        boosts = case.boosts(options, budget)
        for prompt in PROMPTS:
            slow, score = case.slow[prompt], case.score(prompt)
            theirs, boost = slow_synergy(slow, score, budget, options)
            assert boosts[prompt] == pytest.approx(boost, abs=TIE)
            ours = kept[prompt][kept[prompt] >= 0].tolist()
            assert len(set(ours)) == len(ours) == min(budget, slow.count)
            swapped = [boost[n] for n in set(ours) ^ set(theirs)]
            if swapped:
                assert max(swapped) - min(swapped) < TIE
            order = sorted(range(slow.count), key=lambda n: -abs(score[n]))
            reranked += set(ours) != set(order[:budget])
    return reranked


def test_equals_the_loop(case: Case):
    """From K = 1, which has no boundary, over cores smaller than the partners, to more than all."""
    counts = [slow.count for slow in case.slow]
    budgets = (1, 2, 3, 5, 12, 13, 20, 30, min(counts) - 1, min(counts), max(counts) + 20)
    assert check(case, SYNERGY, budgets) >= 5


def test_candidates_that_run_out_are_followed_by_score(case: Case):
    """Ten places and two candidates: the rest is the best of what is left."""
    options = replace(SYNERGY, boundary_cap=2)
    check(case, options, (20,))
    for prompt in PROMPTS:
        (kept,) = case.kept(options, (20,))
        order = sorted(range(case.slow[prompt].count), key=lambda n: -abs(case.score(prompt)[n]))
        # The core of 15, its two candidates, then ranks 18 to 20.
        assert kept[prompt].tolist()[:15] == order[:15]
        assert sorted(kept[prompt].tolist()[15:17]) == sorted(order[15:17])
        assert kept[prompt].tolist()[17:] == order[17:20]


def test_without_weight_it_is_fap(case: Case):
    budgets = (1, 5, 12)
    fap = run_method(METHODS["fap"], case.inputs, budgets)
    ours = case.kept(replace(SYNERGY, weight=0.0), budgets)
    for selection, kept in zip(fap, ours, strict=True):
        np.testing.assert_array_equal(kept, selection.kept)


def test_more_weight_on_synergy_changes_the_sets(case: Case):
    few, many = (case.kept(replace(SYNERGY, weight=weight), (12,))[0] for weight in (0.0, 1000.0))
    assert (np.sort(few) != np.sort(many)).any()


def test_scores_of_the_kept_are_faps(case: Case):
    (selection,) = run_method(METHODS["fap-synergy"], case.inputs, (12,))
    for prompt in PROMPTS:
        expected = np.array(case.score(prompt), np.float32)[selection.kept[prompt]]
        np.testing.assert_array_equal(selection.score[prompt], expected)


def plan(budget: int, options: SynergyOptions, seed: int = 0) -> fap_synergy.SynergyPlan:
    score = np.random.default_rng(0).standard_normal(50).astype(np.float32)
    # The last ten are padding, whatever stands there.
    return fap_synergy.plan(score, 40, budget, options, np.random.default_rng(seed))


def test_partners_are_drawn_without_repetition():
    options = replace(SYNERGY, partners=8, partners_per_candidate=3)
    found = plan(20, options)
    assert found.pairs.shape == (len(found.boundary), 3)
    assert all(len(set(row)) == 3 for row in found.pairs.tolist())
    assert found.pairs.max() < 8
    assert len(np.unique(found.pairs)) > 3
    np.testing.assert_array_equal(found.pairs, plan(20, options).pairs)
    assert (found.pairs != plan(20, options, seed=1).pairs).any()


@pytest.mark.parametrize(
    ("budget", "percent", "core", "boundary"),
    [
        # h = round(percent / 100 * K / 2); the boundary ends at K + h, at 40 or at the cap of 6.
        (1, 25.0, 1, 0),
        (2, 100.0, 1, 2),
        (8, 25.0, 7, 2),
        (20, 25.0, 18, 4),
        (20, 50.0, 15, 6),
        (39, 25.0, 34, 6),
        (40, 5.0, 39, 1),
        (60, 25.0, 40, 0),
    ],
)
def test_core_and_boundary(budget: int, percent: float, core: int, boundary: int):
    options = SynergyOptions(3.0, percent, 6, 4, 4)
    found = plan(budget, options)
    assert (len(found.core), len(found.boundary)) == (core, boundary)
    assert len(found.partners) == min(4, core)
    assert found.pairs.shape == (boundary, min(4, core))
    joined = np.concatenate([found.core, found.boundary]).tolist()
    assert joined == found.order[: core + boundary].tolist()
    # S depends on the options alone.
    assert fap_synergy.removal_sets(found, options).shape == (6 + 4 + 6 * 4, 2)


def test_boosts_count_positive_effects_only():
    """By hand: one candidate, three partners, of which one lowers the metric."""
    options = SynergyOptions(2.0, 50.0, boundary_cap=1, partners=3, partners_per_candidate=3)
    whole = fap_synergy.SynergyPlan(
        order=np.arange(5),
        core=np.arange(3),
        boundary=np.array([3]),
        partners=np.arange(3),
        pairs=np.array([[2, 0, 1]]),
    )
    score = np.array([8.0, -6.0, 4.0, 2.0, 1.0], np.float32)
    # Candidate; partners 0, 1, 2; pairs with 2, 0 and 1.
    effects = np.array([1.0, 2.0, -3.0, 4.0, 5.5, 4.0, 9.0])
    # Synergies with 2: 0.5, with 0: 1.0, with 1 (negative effect): not counted.
    expected = 2.0 / 4.0 + 2.0 * np.median([0.5, 1.0]) / np.median([2.0, 3.0, 4.0])
    assert fap_synergy.boosts(whole, effects, score, 4, options) == pytest.approx([expected])
    # A candidate whose own effect is not positive has no synergy.
    effects[0] = -1.0
    assert fap_synergy.boosts(whole, effects, score, 4, options) == pytest.approx([0.5])
    # Nor does one that disturbs its partners.
    effects[0], effects[4:6] = 1.0, 0.0
    assert fap_synergy.boosts(whole, effects, score, 4, options) == pytest.approx([0.5])
