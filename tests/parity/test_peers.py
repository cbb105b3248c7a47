"""The peers of the benchmark find what this package finds: nothing is timed here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra `parity`: pip install 'pie-jax[parity]'")
pytest.importorskip("circuit_tracer", reason="needs the extra `parity`")

import torch

from benchmarks.parts.prune_measure import Work
from benchmarks.parts.random_weights import (
    SHAPES,
    input_scale,
    make_model,
    make_pairs,
    make_transcoder,
)
from benchmarks.peers.check import BUDGET, Case, cases, check_loop, check_tracer
from benchmarks.peers.circuit_tracer import CircuitTracer
from benchmarks.peers.loop import Loop, rows_by_layer, rows_one_by_one
from pie_jax.errors import PieError
from pie_jax.prune.options import PruneOptions, SynergyOptions
from pie_jax.tasks.encode import EncodedPair

pytestmark = pytest.mark.parity
BUDGETS = (50, 100, 200)
PROMPTS = 3


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    folder, shape = tmp_path_factory.mktemp("made"), SHAPES["tiny"]
    make_model(shape, folder / "model")
    scale = input_scale(folder / "model", shape)
    make_transcoder(shape, folder / "transcoder", scale)
    pairs = make_pairs(shape, PROMPTS)
    return Work(folder, pairs, ("fap", "fap-synergy"), BUDGETS, PROMPTS, "float32", "device")


@pytest.fixture(scope="module")
def found(work: Work) -> list[Case]:
    return cases(work, PROMPTS)


@pytest.fixture(scope="module")
def loop(work: Work) -> Loop:
    return Loop(work.folder)


def test_the_loop_gives_equal_scores_and_kept_sets(loop: Loop, found: list[Case]):
    assert len(found) == PROMPTS
    for pair, ours in found:
        theirs = loop.attribute(pair, rows_by_layer)
        np.testing.assert_array_equal(theirs.found.key, ours.key)
        largest = np.abs(ours.score).max()
        np.testing.assert_allclose(theirs.score, ours.score, rtol=0, atol=1e-5 * largest)
        again = loop.attribute(pair, rows_one_by_one)
        assert torch.equal(again.rows, theirs.rows)
        kept = loop.synergy(pair, theirs, BUDGET, PruneOptions().synergy, ours.draws())
        assert len(set(kept)) == BUDGET
        assert {tuple(key) for key in ours.key[kept].tolist()} == ours.synergy


def test_the_loop_gives_the_published_results(reference: Callable, tmp_path: Path):
    """On the reference checkpoint, with grouped heads and stretched rotary frequencies.

    It was made with every partner drawn, so the draws do not matter.
    """
    published = reference("llama")
    (tmp_path / "model").symlink_to(published.folder / "model")
    (tmp_path / "transcoder").symlink_to(published.folder / "clt")
    loop = Loop(tmp_path)
    budgets = tuple(published.json["k_list"])
    options, reranked = SynergyOptions(boundary_percent=50.0, partners=8), 0
    for i, row in enumerate(published.json["prompts"][:PROMPTS]):
        clean, corrupted = (
            tuple(published[f"{i}/{n}"].tolist()) for n in ("tokens", "tokens_corr")
        )
        pair = EncodedPair(i, clean, (corrupted,), row["pos_id"], row["neg_id"])
        found = loop.attribute(pair, rows_by_layer)
        at = f"{i}/corrupted_prompt"
        np.testing.assert_array_equal(found.found.key, published[f"{at}/occurrences"])
        expected = published[f"{at}/logit_diff/fap"]
        largest = np.abs(expected).max()
        np.testing.assert_allclose(found.score, expected, rtol=0, atol=1e-4 * largest)
        fap = row["runs"]["corrupted_prompt/logit_diff"]["fap"]
        kls = [fap[str(budget)]["kl_last"] for budget in budgets]
        np.testing.assert_allclose(loop.kls(pair, found, budgets), kls, rtol=1e-3, atol=1e-6)
        for budget in budgets:
            top, synergy = (
                np.unpackbits(published[f"{at}/logit_diff/keep_{name}_{budget}"]).nonzero()[0]
                for name in ("fap", "synergy")
            )
            draws = np.random.default_rng(0)
            kept = loop.synergy(pair, found, budget, options, draws)
            assert set(kept) == set(synergy.tolist())
            reranked += not np.array_equal(top, synergy)
    # So that synergy had something to do.
    assert reranked


def test_the_check_accepts_what_is_equal(work: Work, loop: Loop, found: list[Case]):
    tracer = CircuitTracer(work.folder)
    for case in found:
        check_tracer(tracer, loop, case, check_loop(loop, case, BUDGETS))


def test_the_check_refuses_other_weights(work: Work, found: list[Case]):
    other = Loop(work.folder)
    other.decoders[1] = other.decoders[1] * 1.01
    with pytest.raises(PieError, match="the loop's scores differ"):
        check_loop(other, found[0], BUDGETS)
    other = Loop(work.folder)
    other.model.weights["model.norm.weight"] = other.model.weights["model.norm.weight"] * 1.01
    with pytest.raises(PieError, match="the loop's logits differ"):
        check_loop(other, found[0], BUDGETS)


def test_the_check_refuses_another_kept_set(loop: Loop, found: list[Case]):
    pair, ours = found[0]
    other = ours.synergy - {min(ours.synergy)} | {(0, 0, 0)}
    with pytest.raises(PieError, match=f"FAP-Synergy: 1 of the {BUDGET} kept differ"):
        check_loop(loop, Case(pair, ours._replace(synergy=other)), BUDGETS)
