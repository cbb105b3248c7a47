"""The study of graphs by influence and by KL measures what a run of pruning does."""

from __future__ import annotations

import pytest

import pie_jax
from benchmarks.studies import graph_truth
from pie_jax.prune.methods import METHODS
from pie_jax.tasks import encode_pairs, get_task


@pytest.mark.slow
def test_rows_agree_with_pruning_and_graphs(monkeypatch):
    # FAP in place of `auto`: as much is compared, and little is compiled.
    monkeypatch.setattr(graph_truth, "METHODS", {"auto": METHODS["fap"]})
    monkeypatch.setattr(graph_truth, "_BUDGETS", (4,))
    model, clt = pie_jax.load_model(), pie_jax.load_transcoder()
    pairs = get_task("ioi").generate(1, seed=0, tokenizer=model.tokenizer, split="heldout")
    encoded, _ = encode_pairs(pairs, model.tokenizer, needs_target=True)
    rows = {row["set"]: row for row in graph_truth.measure(model, clt, encoded)}
    assert set(rows) == {graph_truth.INFLUENCE, *graph_truth.AUTO.values()}
    for removal, name in graph_truth.AUTO.items():
        settings = {"methods": ("fap",), "budgets": (4,), "corruption": removal}
        result = pie_jax.prune(model, clt, pairs, **settings)
        expected = result.behaviour["kl_last"][0].as_py()
        assert rows[name][f"kl {removal}"] == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert rows[graph_truth.INFLUENCE]["nodes"] == 4
    found = pie_jax.attribution_graph(
        model, clt, pairs[0].clean, targets=(pairs[0].target, pairs[0].distractor)
    )
    best = graph_truth.node_influence(found)[: found.feature_count].argsort()[::-1][:4]
    few = pie_jax.attribution_graph(
        model, clt, pairs[0].clean, targets=(pairs[0].target, pairs[0].distractor),
        features=graph_truth._places(found, best),
    )  # fmt: skip
    expected, _ = graph_truth.scores(few)
    assert rows[graph_truth.INFLUENCE]["replacement"] == pytest.approx(expected)


def test_undefined_values_are_left_out_of_means():
    row = dict.fromkeys(graph_truth.MEASURES, 1.0) | {"size": 4, "set": "a"}
    (found,) = graph_truth.means([row, {**row, "replacement": None, "nodes": 3.0}])
    assert (found["replacement"]["mean"], found["replacement"]["n"]) == (1.0, 1)
    assert found["nodes"]["mean"] == 2.0
    (none,) = graph_truth.means([{**row, "pearson nothing": None}])
    assert none["pearson nothing"] is None
