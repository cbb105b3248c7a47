"""The methods that have no file of their own here, and what holds for all of them."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace

import numpy as np
import pytest
from prune_helpers import (
    Columns,
    SlowPrompt,
    columns,
    places,
    prepare,
    rows_where,
    tiny_model,
    tiny_pairs,
    tiny_transcoder,
)

import pie_jax
from pie_jax.models.loader import LanguageModel
from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.methods import METHODS, Selection, run_method
from pie_jax.prune.options import AcdcOptions, PruneOptions, SynergyOptions
from pie_jax.transcoders.store import Transcoder

LENGTHS = [16, 12, 9, 10, 13]
PROMPTS = range(len(LENGTHS))
PAIRS = tiny_pairs(LENGTHS)
OPTIONS = PruneOptions(
    methods=("fap", "fap-synergy", "relp", "activation-magnitude", "factp", "random", "staged"),
    budgets=(4, 12),
    synergy=SynergyOptions(3.0, 50.0, 6, 4, 2),
    acdc=AcdcOptions(8, 4),
    batch_size=len(LENGTHS),
)
# Effects and scores reach about one; float32 in another order of sums.
TOLERANCE = 1e-5


@dataclass(eq=False)
class Case:
    model: LanguageModel
    transcoder: Transcoder
    inputs: BatchEvaluator

    def select(self, name: str, budgets: tuple[int, ...], **options: object) -> list[Selection]:
        """Run a method under other options."""
        before = self.inputs.options
        self.inputs.options = replace(before, **options)
        try:
            return run_method(METHODS[name], self.inputs, budgets)
        finally:
            self.inputs.options = before


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    model = tiny_model(tmp_path_factory.mktemp("tiny"))
    transcoder = tiny_transcoder(model)
    return Case(model, transcoder, prepare(model, transcoder, PAIRS, OPTIONS))


def test_every_method_is_entered_once():
    assert list(METHODS) == [method.name for method in METHODS.values()]
    assert set(METHODS) == {
        *OPTIONS.methods,
        "acdc",
        "fap-full",
        "fap-hvp",
        "integrated-gradients",
        "learned",
        "auto",
    }
    for method in METHODS.values():
        assert (method.scores is None) != (method.select is None)
        assert method.description


def test_factp_is_the_exact_effect_of_each_alone(case: Case):
    effects = METHODS["factp"].scores(case.inputs)
    for prompt in (0, 2):
        slow = SlowPrompt(case.inputs, case.transcoder, prompt)
        alone = [slow.effect([n]) for n in range(slow.count)]
        np.testing.assert_allclose(effects[prompt, : slow.count], alone, atol=10 * TOLERANCE)
        assert not effects[prompt, slow.count :].any()
        assert np.abs(alone).max() > 0.1


def test_activation_magnitude_is_the_clean_activation(case: Case):
    found = case.inputs.occurrences
    np.testing.assert_array_equal(
        METHODS["activation-magnitude"].scores(case.inputs), np.abs(found.clean)
    )
    (selection,) = case.select("activation-magnitude", (12,))
    for prompt in PROMPTS:
        largest = np.sort(found.clean[prompt])[::-1][:12]
        np.testing.assert_array_equal(selection.score[prompt], largest)
        np.testing.assert_array_equal(found.clean[prompt, selection.kept[prompt]], largest)


def test_random_is_active_on_the_clean_prompt(case: Case):
    """All of it, and only then what the corrupted prompt alone activates."""
    found = case.inputs.occurrences
    active = (found.clean > 0).sum(axis=1)
    assert (active < found.count).all()
    smallest = int(active.min())
    (selection,) = case.select("random", (smallest,))
    assert (np.take_along_axis(found.clean, selection.kept, axis=1) > 0).all()
    (more,) = case.select("random", (int(found.count.max()),))
    for prompt in PROMPTS:
        kept = more.kept[prompt][: found.count[prompt]]
        assert sorted(kept.tolist()) == list(range(found.count[prompt]))
        assert (found.clean[prompt, kept[: active[prompt]]] > 0).all()
        assert not found.clean[prompt, kept[active[prompt] :]].any()


def test_random_is_seeded_and_nested(case: Case):
    small, large = case.select("random", (6, 40))
    for prompt in PROMPTS:
        kept = large.kept[prompt].tolist()
        assert kept[:6] == small.kept[prompt].tolist()
        assert len(set(kept)) == 40
    (again,) = case.select("random", (6,))
    np.testing.assert_array_equal(again.kept, small.kept)
    (other,) = case.select("random", (6,), seed=1)
    assert all(set(a) != set(b) for a, b in zip(other.kept, small.kept, strict=True))


def test_random_numbers_hang_on_seed_prompt_and_purpose(case: Case):
    """And on nothing else: not on the place in the batch."""

    def draw(index: int, salt: str, **changes: object) -> float:
        inputs = copy(case.inputs)
        inputs.rows = changes.pop("rows", inputs.rows)
        inputs.options = replace(inputs.options, **changes)
        return inputs.generator(index, salt).random()

    first = draw(0, "random")
    assert draw(0, "random") == first
    assert draw(3, "random", rows=np.array([9, 8, 7, 0])) == first
    others = [draw(1, "random"), draw(0, "synergy-4"), draw(0, "random", seed=1)]
    assert len({first, *others}) == 4


def test_random_is_even(case: Case):
    """Over 200 seeds every clean-active occurrence of a prompt is kept about equally often."""
    active = np.flatnonzero(case.inputs.occurrences.clean[0] > 0)
    times = np.zeros(case.inputs.occurrences.clean.shape[1])
    for seed in range(200):
        (selection,) = case.select("random", (len(active) // 2,), seed=seed)
        times[selection.kept[0]] += 1
    assert times.sum() == 200 * (len(active) // 2)
    # 100 expected; five standard deviations of a fair coin thrown 200 times.
    assert np.abs(times[active] - 100).max() < 5 * np.sqrt(50) + 2


@pytest.mark.parametrize("name", ["fap", "relp", "factp", "activation-magnitude", "random"])
def test_per_layer_scope(case: Case, name: str):
    found = case.inputs.occurrences
    (selection,) = case.select(name, (12,), scope_layers="per-layer")
    for prompt in PROMPTS:
        layers = found.layer[prompt, selection.kept[prompt]]
        assert np.bincount(layers, minlength=3).tolist() == [4, 4, 4]
    (whole,) = case.select(name, (12,))
    assert (np.sort(whole.kept) != np.sort(selection.kept)).any()


@pytest.mark.parametrize("name", METHODS)
def test_budgets_beyond_all_occurrences_keep_all(case: Case, name: str):
    found = case.inputs.occurrences
    budget = int(found.count.max()) + 5
    (selection,) = case.select(name, (budget,))
    assert selection.kept.shape == selection.score.shape == (len(PROMPTS), budget)
    for prompt in PROMPTS:
        count = found.count[prompt]
        assert sorted(selection.kept[prompt, :count].tolist()) == list(range(count))
        assert (selection.kept[prompt, count:] == -1).all()
        assert not selection.score[prompt, count:].any()


def run(case: Case, **changes: object) -> dict[str, Columns]:
    options = replace(OPTIONS, **changes)
    result = pie_jax.prune(case.model, case.transcoder, PAIRS, options)
    return {name: columns(table) for name, table in result.tables().items() if name != "features"}


@pytest.fixture(scope="module")
def together(case: Case) -> dict[str, Columns]:
    return run(case)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2])
def test_a_prompt_does_not_depend_on_its_batch(case: Case, together: dict[str, Columns], size: int):
    """Neither on its mates nor on the batch's size, padding and chunks."""
    alone = run(case, batch_size=size, chunk_bytes=1 << 17)
    np.testing.assert_array_equal(places(alone["scores"]), places(together["scores"]))
    for table in ("scores", "behaviour"):
        for name, column in alone[table].items():
            other = together[table][name]
            if column.dtype != np.float32:
                np.testing.assert_array_equal(column, other)
            elif table == "scores":
                np.testing.assert_allclose(column, other, atol=TOLERANCE, rtol=TOLERANCE)
            else:
                # Logits reach twenty, and shares divide by a change of metric of about two.
                np.testing.assert_allclose(column, other, atol=10 * TOLERANCE)
    for name in ("prompt", "method", "budget", "layer", "position", "feature", "rank"):
        np.testing.assert_array_equal(alone["selections"][name], together["selections"][name])


def test_scores_of_a_selection_are_the_methods(together: dict[str, Columns]):
    for name in OPTIONS.methods:
        if METHODS[name].scores is None:
            continue
        for prompt in PROMPTS:
            scored = rows_where(together["scores"], prompt=prompt)
            kept = rows_where(together["selections"], prompt=prompt, method=name, budget=12)
            at = np.searchsorted(places(scored), places(kept))
            np.testing.assert_array_equal(scored[name][at], kept["score"])
            top = np.sort(np.abs(scored[name]))[::-1][:12]
            np.testing.assert_array_equal(np.abs(kept["score"]), top)
            assert kept["rank"].tolist() == list(range(1, 13))


def test_a_scoring_method_scores_a_batch_once(case: Case, monkeypatch: pytest.MonkeyPatch):
    """What a table shows is what was selected by; exact effects are not computed twice."""
    calls = []
    method = METHODS["factp"]

    def counted(inputs: BatchEvaluator) -> np.ndarray:
        calls.append(1)
        return method.scores(inputs)

    monkeypatch.setitem(METHODS, "factp", replace(method, scores=counted))
    run(case, methods=("factp",), budgets=(3, 6))
    assert len(calls) == 1
