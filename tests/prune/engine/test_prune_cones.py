"""Cones: how removals are sorted into chunks, and that every fast path equals the plain one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prune_helpers import (
    ARITHMETIC,
    columns,
    places,
    prepare,
    tiny_model,
    tiny_pairs,
    tiny_transcoder,
)

import pie_jax
from pie_jax.prune.engine import evaluator as inputs_module
from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.engine.removals.plan import Starts, distinct, plan, widths
from pie_jax.prune.options import PruneOptions, SynergyOptions
from pie_jax.tasks import Pair

LAYERS, WINDOW, OCCURRENCES = 4, 12, 9


@given(st.data())
def test_every_set_stands_in_one_chunk_that_covers_it(data: st.DataObject):
    batch, count, members = (data.draw(st.integers(1, n)) for n in (3, 12, 3))
    versions, rows = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 60))
    random = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    last = random.integers(0, WINDOW, batch)
    shape = (batch, OCCURRENCES)
    starts = Starts(
        layer=random.integers(0, LAYERS, shape),
        # Before the window nothing changes.
        position=np.minimum(random.integers(0, WINDOW, shape), last[:, None]),
        changes=random.random(shape) < 0.8,
        last=last,
    )
    sets = random.integers(-1, OCCURRENCES, (batch, count, members)).astype(np.int32)
    seen = []
    for work in plan(starts, sets, versions, LAYERS, WINDOW, rows):
        cones, chunk = work.cones, work.cones.first.shape[1]
        assert (np.diff(cones.active) >= 0).all()
        for prompt, index, where in zip(work.prompts, work.sets, work.places, strict=True):
            seen.append((prompt, index))
            assert len(where) == versions
            for version, place in enumerate(where):
                j, c = divmod(int(place), chunk)
                assert j < cones.real
                assert (cones.prompt[j], cones.corruption[j]) == (prompt, version)
                np.testing.assert_array_equal(cones.members[j, c], sets[prompt, index])
                assert cones.offset[j] == max(last[prompt] + 1 - work.width, 0)
                for member in sets[prompt, index]:
                    if member < 0 or not starts.changes[prompt, member]:
                        continue
                    layer = starts.layer[prompt, member]
                    assert starts.position[prompt, member] >= cones.offset[j]
                    assert cones.first[j, c] <= layer
                    # Every layer above the first that changes is run.
                    assert (j < cones.active[layer + 1 :]).all()
    changing = [
        (b, s)
        for b in range(batch)
        for s in range(count)
        if any(m >= 0 and starts.changes[b, m] for m in sets[b, s])
    ]
    assert sorted(seen) == changing


def test_equal_sets_are_measured_once():
    """In whatever order their members stand; every place finds its set."""
    sets = np.array([[[1, 2], [2, 1], [-1, 3], [3, -1], [-1, -1], [1, 2]]], np.int32)
    once, same = distinct(sets)
    assert (once[0] != -1).any(axis=1).sum() == 2
    for place, of in zip(sets[0], same[0], strict=True):
        assert sorted(once[0, of]) == sorted(place)


def test_chunks_depend_on_shapes_alone():
    """Whatever the sets are, the arrays have the same sizes: nothing compiles anew."""
    random = np.random.default_rng(0)
    shapes = set()
    for _ in range(5):
        layer = random.integers(0, LAYERS, (2, OCCURRENCES))
        position = random.integers(0, WINDOW, (2, OCCURRENCES))
        starts = Starts(layer, position, np.ones((2, OCCURRENCES), bool), np.array([11, 11]))
        sets = random.integers(-1, OCCURRENCES, (2, 20, 2)).astype(np.int32)
        plans = plan(starts, sets, 1, LAYERS, WINDOW, 24)
        assert [work.width for work in plans] == widths(WINDOW)
        shapes.add(tuple(work.cones.members.shape for work in plans))
    assert len(shapes) == 1


def test_widths_end_with_the_window():
    assert widths(1) == [1]
    assert widths(4) == [2, 4]
    assert widths(24) == [6, 12, 18, 24]


# Fast and plain


PAIRS = tiny_pairs([16, 9, 12, 14], seed=3)
SCORED = ("fap", "fap-synergy", "relp", "factp")


def late(pair: Pair, count: int, seed: int) -> Pair:
    """Return a pair whose versions differ from the clean prompt near its end."""
    random = np.random.default_rng(seed)
    words = pair.clean.split()
    versions = []
    for _ in range(count):
        other = list(words)
        for at in random.choice(np.arange(len(words) - 4, len(words)), 2, replace=False):
            other[at] = words[random.integers(len(words))]
        other[-3] = words[0] if words[-3] != words[0] else words[1]
        versions.append(" ".join(other))
    return replace(pair, corrupted=tuple(versions))


@pytest.fixture(scope="module", params=ARITHMETIC)
def weights(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    model = tiny_model(tmp_path_factory.mktemp("model"), **ARITHMETIC[request.param])
    return model, tiny_transcoder(model, jump=request.param == "gemma")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("weights", "kind", "metric"),
    [
        ("gemma", "late", "logsumexp"),
        ("gemma", "several", "logit-diff"),
        ("gemma", "early", "logit-diff"),
        ("gemma", "zero-features", "logit-diff"),
        ("gpt2", "late", "logsumexp"),
        ("gpt2", "early", "logit-diff"),
        ("llama", "several", "logit-diff"),
        ("llama", "zero-features", "logit-diff"),
    ],
    indirect=["weights"],
)
def test_every_fast_path_equals_the_plain_one(weights, kind: str, metric: str):
    """Scores to 1e-5 of the largest and equal kept sets, for every method; behaviour to 1e-4."""
    pairs = (
        PAIRS
        if kind in ("early", "zero-features")
        else [late(pair, 3 if kind == "several" else 1, i) for i, pair in enumerate(PAIRS)]
    )
    options = PruneOptions(
        methods=SCORED,
        budgets=(3, 6),
        metric=metric,
        corruption="zero-features" if kind == "zero-features" else "corrupted-prompt",
        synergy=SynergyOptions(3.0, 50.0, 6, 4, 2),
        batch_size=4,
    )
    fast, plain = (pie_jax.prune(*weights, pairs, replace(options, plain=p)) for p in (False, True))
    ours, theirs = columns(fast.scores), columns(plain.scores)
    assert places(ours).tolist() == places(theirs).tolist()
    for name in ("fap", "relp", "factp"):
        scale = np.abs(theirs[name]).max()
        assert scale > 0.01
        # factp is a difference of two metrics, whose own size sets the rounding.
        size = np.abs(columns(plain.behaviour)["metric_clean"]).max() if name == "factp" else scale
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-5 * max(size, scale))
    ours, theirs = columns(fast.behaviour), columns(plain.behaviour)
    for name in ("kl_last", "kl_mean", "metric_circuit", "metric_complement", "kl_last_null"):
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-4, rtol=1e-5)
    ours, theirs = columns(fast.selections), columns(plain.selections)
    for method in SCORED:
        for prompt in range(len(pairs)):
            for budget in options.budgets:
                kept = [
                    set(places({k: v[rows] for k, v in table.items()}).tolist())
                    for table in (ours, theirs)
                    if (
                        rows := (table["method"] == method)
                        & (table["prompt"] == prompt)
                        & (table["budget"] == budget)
                    ).any()
                ]
                assert kept[0] == kept[1], (method, prompt, budget)


def test_removals_in_blocks(weights, monkeypatch: pytest.MonkeyPatch):
    """More sets than streams fit in memory run one block after another."""
    fast = prepare(*weights, PAIRS, PruneOptions(batch_size=4))
    sets = np.arange(4 * 20 * 1, dtype=np.int32).reshape(4, 20, 1) % 30
    whole = fast.removal_effects(sets)
    monkeypatch.setattr(inputs_module, "_STREAM_BYTES", 1 << 14)
    assert fast._sets_at_once(20) < 10
    np.testing.assert_allclose(fast.removal_effects(sets), whole, atol=1e-5)


# Several corruptions


def test_several_corruptions_are_the_mean_over_each(weights):
    """Occurrences are the union; scores, effects and circuits are means over the versions."""
    pairs = [late(pair, 3, i) for i, pair in enumerate(PAIRS)]
    options = PruneOptions(batch_size=4)
    together = prepare(*weights, pairs, options)
    apart = [
        prepare(
            *weights, [replace(pair, corrupted=(pair.corrupted[m],)) for pair in pairs], options
        )
        for m in range(3)
    ]
    for prompt in range(len(pairs)):
        where = [_index(each, prompt) for each in (together, *apart)]
        assert set(where[0]) == set().union(*where[1:])
        scores = together.attribution("frozen")[prompt]
        # What a version leaves as it was has no change there, so no part in its score.
        mean = {
            place: sum(
                float(each.attribution("frozen")[prompt, index[place]])
                for each, index in zip(apart, where[1:], strict=True)
                if place in index
            ) / 3
            for place in where[0]
            if all(
                place in index or _clean_equal(together, prompt, where[0][place], m)
                for m, index in enumerate(where[1:])
            )
        }  # fmt: skip
        assert len(mean) > 10
        for place, expected in mean.items():
            assert scores[where[0][place]] == pytest.approx(
                expected, abs=2e-5 * float(np.abs(scores).max())
            )
        strongest = [list(where[0])[i] for i in np.argsort(-np.abs(scores[: len(where[0])]))]
        common = [place for place in strongest if all(place in index for index in where[1:])][:5]
        assert common
        effects = [
            each.removal_effects(_sets(each, prompt, [index[place] for place in common]))[prompt]
            for each, index in zip((together, *apart), where, strict=True)
        ]
        np.testing.assert_allclose(effects[0], np.mean(effects[1:], axis=0), atol=1e-4)


def _index(inputs: BatchEvaluator, prompt: int) -> dict[tuple[int, int, int], int]:
    found, count = inputs.occurrences, int(inputs.occurrences.count[prompt])
    names = (found.layer, found.position, found.feature)
    keys = zip(*(x[prompt, :count].tolist() for x in names), strict=True)
    return {key: i for i, key in enumerate(keys)}


def _clean_equal(inputs: BatchEvaluator, prompt: int, index: int, version: int) -> bool:
    return bool(np.asarray(inputs.problem.delta)[prompt, version, index] == 0)


def _sets(inputs: BatchEvaluator, prompt: int, members: list[int]) -> np.ndarray:
    sets = np.full((len(inputs.rows), len(members) + 1, len(members)), -1, np.int32)
    for i, member in enumerate(members):
        sets[prompt, i, 0] = member
    sets[prompt, -1] = members
    return sets
