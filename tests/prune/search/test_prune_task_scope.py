"""Task-level runs: unique features, found on half of the pairs, judged on both halves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prune_helpers import SlowPrompt, columns, prepare, tiny_model, tiny_pairs, tiny_transcoder
from refusals import refuses
from task_helpers import SlowTask

import pie_jax
from pie_jax.errors import PieError
from pie_jax.prune.options import PruneOptions, SearchOptions
from pie_jax.prune.results.measures import unique_features
from pie_jax.prune.results.tables import feature_id, feature_keys
from pie_jax.prune.search.task_wide import search as task_search
from pie_jax.prune.step import Pruner
from pie_jax.prune.task_circuits import batches as task_batches
from pie_jax.prune.task_circuits.features import TaskFeatures
from pie_jax.prune.task_circuits.results import TABLES, TaskResult

METHODS = ("fap", "learned", "random", "staged")
OPTIONS = PruneOptions(
    methods=METHODS, budgets=(3, 6), batch_size=2, search=SearchOptions(stages=3, steps=3)
)
PAIRS = tiny_pairs([12, 10, 12, 11, 12], seed=4)
SEEN, UNSEEN = PAIRS[0::2], PAIRS[1::2]
# KLs of about a nat in float32, from another program.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory):
    model = tiny_model(tmp_path_factory.mktemp("tiny"), layers=2)
    return model, tiny_transcoder(model, features=16)


@pytest.fixture(scope="module")
def whole(case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run."""
    out = tmp_path_factory.mktemp("whole")
    pie_jax.prune_task(*case, PAIRS, OPTIONS, out=out)
    return out


@pytest.fixture(scope="module")
def result(whole: Path) -> TaskResult:
    return pie_jax.load_task_result(whole)


@pytest.fixture(scope="module")
def slow(case) -> dict[bool, SlowTask]:
    """The seen half (True) and the other, one pass at a time."""
    halves = {}
    for seen, pairs in ((True, SEEN), (False, UNSEEN)):
        inputs = prepare(*case, pairs, OPTIONS)
        halves[seen] = SlowTask([SlowPrompt(inputs, case[1], b) for b in range(len(pairs))])
    return halves


def test_scores_of_single_prompts_are_summed_by_magnitude(case, result: TaskResult):
    inputs = prepare(*case, SEEN, OPTIONS)
    found, scores = inputs.occurrences, inputs.attribution("frozen")
    sums: dict[tuple[int, int], float] = {}
    for b, count in enumerate(found.count):
        for n in range(count):
            key = (int(found.layer[b, n]), int(found.feature[b, n]))
            sums[key] = sums.get(key, 0.0) + abs(float(scores[b, n])) / len(SEEN)
    best = sorted(sums, key=lambda key: -sums[key])
    for budget in OPTIONS.budgets:
        assert result.features("fap", budget) == best[:budget]
    table = columns(result.task)
    use = (table["method"] == "fap") & (table["budget"] == 6)
    np.testing.assert_allclose(table["score"][use], [sums[key] for key in best[:6]], rtol=1e-4)
    assert table["rank"][use].tolist() == [1, 2, 3, 4, 5, 6]
    np.testing.assert_array_equal(table["feature_id"], feature_id(table["layer"], table["feature"]))


def test_kl_is_that_of_slow_passes_on_both_halves(result: TaskResult, slow: dict[bool, SlowTask]):
    table = columns(result.task_behaviour)
    assert len(table["prompt"]) == len(PAIRS) * len(METHODS) * len(OPTIONS.budgets)
    for seen, task in slow.items():
        null = task.kls([])
        for method in ("fap", "learned"):
            use = (table["seen"] == seen) & (table["method"] == method) & (table["budget"] == 6)
            assert table["prompt"][use].tolist() == list(range(len(PAIRS)))[not seen :: 2]
            kl = task.kls(result.features(method, 6))
            np.testing.assert_allclose(table["kl_last"][use], kl, atol=TOLERANCE)
            np.testing.assert_allclose(table["kl_last_null"][use], null, atol=TOLERANCE)


def test_the_summary_has_both_halves_and_what_prompts_alone_cost(case, result: TaskResult):
    alone = pie_jax.prune(*case, SEEN, OPTIONS)
    table = columns(result.task_behaviour)
    rows = result.summary()
    assert [(row.method, row.budget) for row in rows] == [(m, k) for m in METHODS for k in (3, 6)]
    for row in rows:
        assert row.features == len(result.features(row.method, row.budget)) == row.budget
        use = (table["method"] == row.method) & (table["budget"] == row.budget)
        for mean, seen in ((row.seen, True), (row.unseen, False)):
            kl = table["kl_last"][use & (table["seen"] == seen)]
            assert mean is not None
            assert mean.n == len(kl) == (3 if seen else 2)
            assert mean.mean == pytest.approx(kl.mean(dtype=np.float64))
        if row.method == "random":
            # Drawn for each prompt by its place, which is another among the seen alone.
            continue
        assert row.union == unique_features(alone, row.method, row.budget)
        expected = alone.summary()[row.method][row.budget]
        assert row.prompts is not None
        assert expected is not None
        assert row.prompts.mean == pytest.approx(expected.mean, abs=1e-5)
    others = ~table["seen"].astype(bool)
    assert np.isnan(table["kl_last_prompt"][others].astype(float)).all()
    assert result.task_behaviour["features_new"].null_count == others.sum()


def test_a_ratio_of_rounding_is_undefined(result: TaskResult):
    row = result.summary()[0]
    assert row.seen is not None
    assert row.unseen is not None
    assert row.ratio == pytest.approx(row.unseen.mean / row.seen.mean)
    assert row._replace(seen=row.seen._replace(mean=1e-8)).ratio is None


def test_random_features_are_nested_active_and_of_the_seed(case, result: TaskResult):
    inputs = prepare(*case, SEEN, OPTIONS)
    found = inputs.occurrences
    use = found.clean > 0
    active = set(zip(found.layer[use].tolist(), found.feature[use].tolist(), strict=True))
    small, large = (result.features("random", budget) for budget in (3, 6))
    assert large[:3] == small
    assert set(large) <= active
    other = pie_jax.prune_task(*case, PAIRS, OPTIONS, methods=("random",), seed=1)
    assert other.features("random", 6) != large


def test_sets_of_single_prompts_are_summed_by_their_scores_there():
    """Of a method that chooses sets, K = 2: a feature that no set holds is not kept."""
    places = {"layer": np.array([0, 1, 0, 1]), "feature": np.array([3, 3, 5, 3])}
    part = {
        "changing": {
            "key": feature_keys(np.array([0, 0, 1]), np.array([3, 5, 3])),
            "active": np.array([True, True, False]),
        },
        "scores": places,
        "behaviour": {"prompt": np.array([0, 0, 7, 7])},
        "selections": {
            **places,
            "method": np.zeros(4, np.int16),
            "budget": np.array([2, 2, 1, 2]),
            "score": np.array([0.5, -2.0, 9.0, -1.0], np.float32),
        },
    }
    options = replace(OPTIONS, methods=("fap-synergy",), budgets=(1, 2))
    mask, worth = TaskFeatures([part]).summed("fap-synergy", options)
    np.testing.assert_allclose(worth, [[0, 4.5, 0], [0.25, 0, 1.5]])
    assert mask.tolist() == [[0, 1, 0], [1, 0, 1]]


def test_unseen_corruptions_judge(case):
    """Circuits of the first version, judged on the second alone."""
    changed = tiny_pairs([12, 10, 12, 11, 12], seed=5)
    pairs = [
        replace(pair, corrupted=(pair.corrupted[0], other.corrupted[0]))
        for pair, other in zip(PAIRS, changed, strict=True)
    ]
    options = replace(OPTIONS, methods=("staged",), judge_corruptions="unseen")
    result = pie_jax.prune_task(*case, pairs, options)
    first = pie_jax.prune_task(*case, PAIRS, replace(OPTIONS, methods=("staged",)))
    assert result.features("staged", 6) == first.features("staged", 6)
    second = [replace(pair, corrupted=pair.corrupted[1:]) for pair in pairs]
    inputs = prepare(*case, second[0::2], OPTIONS)
    slow = SlowTask([SlowPrompt(inputs, case[1], b) for b in range(3)])
    row = result.summary()[1]
    assert row.seen is not None
    assert row.seen.mean == pytest.approx(slow.kl(result.features("staged", 6)), abs=TOLERANCE)


def tables(out: Path) -> dict[str, bytes]:
    return {name: (out / f"{name}.parquet").read_bytes() for name in TABLES}


def test_batches_that_do_not_fit_memory_are_prepared_again(
    case, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    prepared: list[int] = []
    original = Pruner.prepare

    def counted(self: Pruner, batch: Any) -> Any:
        prepared.append(batch.real)
        return original(self, batch)

    monkeypatch.setattr(Pruner, "prepare", counted)
    counts = []
    for room in (1 << 30, 0):
        monkeypatch.setattr(task_batches, "_room", lambda room=room: room)
        prepared.clear()
        pie_jax.prune_task(*case, PAIRS, OPTIONS, out=tmp_path / str(room))
        assert tables(tmp_path / str(room)) == tables(whole)
        counts.append(len(prepared))
    # Two batches are seen: read for single prompts, for the searches, and judged beside another.
    assert counts[0] == 2 + 2 + 3
    assert counts[1] > 20


class Stopped(Exception):
    pass


def test_a_run_resumes_without_repeating_what_is_done(
    case, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Stopped in the middle of the second method's search, and between judged batches."""
    measured: list[int] = []
    original = task_search.TaskSearch._measure

    def stop(self: Any, mask: np.ndarray, use: np.ndarray) -> Any:
        measured.append(1)
        if len(measured) == 4:
            raise Stopped
        return original(self, mask, use)

    with monkeypatch.context() as patch:
        patch.setattr(task_search.TaskSearch, "_measure", stop)
        with pytest.raises(Stopped):
            pie_jax.prune_task(*case, PAIRS, OPTIONS, out=tmp_path)
    refuses(lambda: pie_jax.load_task_result(tmp_path), "not complete", kind=PieError)
    parts = sorted(path.name for path in (tmp_path / "parts").iterdir())
    # Two batches of single prompts, then the first method.
    assert parts == [f"batch-{index:06d}.npz" for index in range(3)]
    before = {name: (tmp_path / "parts" / name).stat().st_mtime_ns for name in parts}
    monkeypatch.setattr(Pruner, "measure", lambda *_: pytest.fail("single prompts are done"))

    def stop_judging(done: int, total: int, unit: str) -> None:
        kept = {name: (tmp_path / "parts" / name).stat().st_mtime_ns for name in parts}
        assert kept == before
        if unit == "batches judged":
            raise Stopped

    with pytest.raises(Stopped):
        pie_jax.prune_task(*case, PAIRS, OPTIONS, out=tmp_path, progress=stop_judging)
    monkeypatch.setattr(task_search.TaskSearch, "_measure", lambda *_: pytest.fail("found"))
    seen = []
    pie_jax.prune_task(*case, PAIRS, OPTIONS, out=tmp_path, progress=lambda *now: seen.append(now))
    assert seen[:2] == [(n, 2, "batches of single prompts") for n in (1, 2)]
    assert seen[2:6] == [(n, 4, "methods") for n in (1, 2, 3, 4)]
    assert seen[6:] == [(n, 3, "batches judged") for n in (1, 2, 3)]
    assert tables(tmp_path) == tables(whole)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"run.json", *(f"{name}.parquet" for name in TABLES)}


def test_a_complete_run_is_only_read(case, whole: Path, result: TaskResult):
    before = {path: path.stat().st_mtime_ns for path in whole.iterdir()}
    again = pie_jax.prune_task(
        *case, PAIRS, OPTIONS, out=whole, progress=lambda *_: pytest.fail("nothing to do")
    )
    assert {path: path.stat().st_mtime_ns for path in whole.iterdir()} == before
    for name, table in result.tables().items():
        assert again.tables()[name].equals(table)
    record = json.loads((whole / "run.json").read_text())
    assert record["config"]["scope"] == "task"
    assert (record["status"], record["pairs"], record["batches"]) == ("complete", 5, 3)


def test_folders_of_the_other_scope_or_another_config_are_refused(case, whole: Path, tmp_path):
    named = (whole, "--scope task", "--scope prompt")
    refuses(lambda: pie_jax.load_result(whole), *named)
    one = {"methods": ("fap",), "budgets": (3,)}
    refuses(lambda: pie_jax.prune(*case, PAIRS, OPTIONS, out=whole), "(scope changed)")
    refuses(lambda: pie_jax.prune_task(*case, PAIRS, OPTIONS, out=whole, seed=1), "(seed changed)")
    pie_jax.prune(*case, SEEN, OPTIONS, out=tmp_path, **one)
    refuses(lambda: pie_jax.load_task_result(tmp_path), tmp_path, "--scope task")
    refuses(lambda: pie_jax.load_task_result(tmp_path / "none"), tmp_path / "none")


def test_what_cannot_be_is_refused(case):
    for pairs in (PAIRS[:1], [PAIRS[0], replace(PAIRS[1], target="w3 w4")]):
        refuses(
            lambda pairs=pairs: pie_jax.prune_task(*case, pairs, OPTIONS, on_bad_pair="skip"),
            "--scope task",
            "at least 2 pairs",
        )
    options = replace(OPTIONS, search=SearchOptions(exchanges=1))
    refuses(lambda: pie_jax.prune_task(*case, PAIRS, options), "search.exchanges")
