"""Staged selection: one stage at the clean point is FAP, and its path is nested."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from prune_helpers import prepare, tiny_model, tiny_pairs, tiny_transcoder

import pie_jax
from pie_jax.kernels import write
from pie_jax.models.gradient_rules import FULL
from pie_jax.models.loader import load_model
from pie_jax.prune.methods.staged import best_additions, gains, stage_ends
from pie_jax.prune.metrics import last_logits
from pie_jax.prune.options import PruneOptions
from pie_jax.prune.passes import kl_at_last
from pie_jax.tasks import get_task
from pie_jax.transcoders.loader import load_transcoder


@pytest.mark.parametrize("budgets", [(5,), (5, 10, 20), (3, 160), (1,)])
def test_every_budget_ends_a_stage(budgets):
    ends = stage_ends(budgets)
    assert set(budgets) <= set(ends)
    assert ends == sorted(set(ends))
    assert ends[0] == 1
    assert ends[-1] == max(budgets)


def test_additions_are_signed_and_new():
    gain = np.array([0.5, -2.0, 0.1, 0.9], np.float32)
    assert best_additions(gain, np.array([3]), 2).tolist() == [0, 2]
    # What is asked for beyond what there is cannot be added twice.
    assert sorted(best_additions(gain, np.array([3]), 9).tolist()) == [0, 1, 2]


@pytest.mark.parametrize("plain", [True, False])
def test_gain_is_the_slope_of_minus_kl_at_the_circuit(tmp_path, plain):
    model = tiny_model(tmp_path / "model")
    transcoder, pairs = tiny_transcoder(model, bias=0.0), tiny_pairs([12, 10], seed=4)
    fast = prepare(model, transcoder, pairs, PruneOptions(plain=plain))
    inputs = prepare(model, transcoder, pairs, PruneOptions(plain=True))
    kept = np.array([[0, 3, 5], [1, 2, 7]], np.int32)
    gain = np.asarray(gains(fast.problem, fast.total, jnp.asarray(kept), FULL))
    layers, length = inputs.problem.sizes
    delta = np.asarray(inputs.problem.delta)[:, 0]
    step = 1e-2
    for b in range(2):
        of_batch = inputs.problem._replace(model=None, table=None)
        problem = jax.tree.map(lambda x: x[b], of_batch)  # noqa: B023
        problem = problem._replace(model=model.transformer, table=inputs.problem.table)
        clean = last_logits(model.transformer, problem.clean(), problem.prompt)

        def kl(weights, b=b, problem=problem, clean=clean):
            change = write(problem.table, problem.writes, jnp.asarray(weights), layers, length)
            return float(kl_at_last(problem, clean, change - inputs.total[b, 0]))

        here = np.zeros(delta.shape[1], np.float32)
        here[kept[b]] = delta[b, kept[b]]
        for index in range(8, 14):
            change = np.zeros_like(here)
            change[index] = step * float(delta[b, index])
            slope = -(kl(here + change) - kl(here - change)) / (2 * step)
            # float32 KLs of a few nats, divided by a step of 1e-2.
            assert gain[b, index] == pytest.approx(slope, rel=0.02, abs=2e-3)


def test_paths_are_nested_and_beat_fap_on_the_demo():
    model, clt = load_model("demo"), load_transcoder("demo")
    pairs = get_task("docstring").generate(4, seed=2, tokenizer=model.tokenizer, split="heldout")
    result = pie_jax.prune(
        model, clt, pairs, methods=("fap", "staged"), budgets=(10, 40), batch_size=4
    )
    table = result.selections.to_pydict()
    kept: dict[int, set] = {10: set(), 40: set()}
    for i, method in enumerate(table["method"]):
        if method == "staged":
            where = tuple(table[name][i] for name in ("prompt", "layer", "position", "feature"))
            kept[table["budget"][i]].add(where)
    assert len(kept[10]) == 40
    assert kept[10] < kept[40]
    summary = result.summary()
    assert summary["staged"][40].mean < 0.5 * summary["fap"][40].mean
