"""Interventions equal the slow version: NumPy, one list of changes and one prompt at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from intervene_helpers import Case, SlowRun, make_case, near, slow_intervene

import pie_jax
from pie_jax.intervene.changes import Change

PROMPTS = ["w5 w9 w13 w22 w7 w30", "w31 w8 w4"]
# Earlier features change what later ones read; one place is changed in both signs.
LISTS = [
    [Change(0, 3, 2, value=3.0)],
    [Change(1, 5, slice(1, None), scale=-2.0), Change(0, 7, slice(None), value=2.0)],
    [Change(0, 1, -1, scale=2.0), Change(1, 2, -2, remove=True), Change(2, 4, -1, value=-1.5)],
]


@pytest.fixture(scope="module", params=["llama", "gemma", "topk"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("model"), request.param)


def check_activations(found: Any, slow: list[list[SlowRun]]) -> None:
    table = {name: found.activations[name].to_numpy() for name in found.activations.schema.names}
    for b, runs in enumerate(slow):
        for s, run in enumerate(runs):
            here = (table["prompt"] == b) & (table["list"] == s)
            at = tuple(table[name][here] for name in ("layer", "position", "feature"))
            for name in ("before", "after"):
                near(table[name][here], getattr(run, f"act_{name}")[at])
                near(table[f"pre_{name}"][here], getattr(run, f"pre_{name}")[at])
            active = (run.act_before != 0) | (run.act_after != 0)
            active[:, 0] = False
            assert active.sum() == here.sum()
            assert active[at].all()


@pytest.mark.parametrize("freeze", ["direct", "attention", "nothing"])
def test_runs_equal_the_slow_ones(case: Case, freeze: str):
    found = pie_jax.intervene(
        case.model, case.transcoder, PROMPTS, LISTS, freeze=freeze, logits="all",
        targets=["w9", 4], activations="active", pre_activations=True, batch_size=4,
    )  # fmt: skip
    slow = [
        [slow_intervene(case.slow, case.transcoder, ids, changes, freeze) for changes in LISTS]
        for ids in found.tokens
    ]
    for b, ids in enumerate(found.tokens):
        near(found.before[b, : len(ids)], slow[b][0].before)
        assert np.isnan(found.before[b, len(ids) :]).all()
        for s, run in enumerate(slow[b]):
            near(found.after[b, s, : len(ids)], run.after)
            assert np.isnan(found.after[b, s, len(ids) :]).all()
            assert np.abs(run.after - run.before).max() > 0.1
    check_activations(found, slow)
    cap = case.model.config.final_softcap
    for b, runs in enumerate(slow):
        for s, run in enumerate(runs):
            before, after = (x[-1] if cap is None else cap * np.arctanh(x[-1] / cap)
                             for x in (run.before, run.after))  # fmt: skip
            moved = after - before
            near(found.target_changes[b, s], (moved - moved.mean())[[9, 4]], np.abs(after).max())
