"""Measures over budgets, on numbers done by hand; `pie-jax compare` on two small runs."""

from __future__ import annotations

import numpy as np
import pytest
from prune_helpers import tiny_model, tiny_pairs, tiny_transcoder

import pie_jax
from pie_jax.errors import InputError
from pie_jax.prune.comparison import area_table, chart, kl_rows, load_runs, stability_table
from pie_jax.prune.measures import (
    area,
    by_prompt,
    compression,
    faithfulness_areas,
    kept_sets,
    paired_difference,
    size_for,
    stability,
    unique_features,
)
from pie_jax.prune.options import PruneOptions


def test_area_is_a_mean_over_log_k():
    budgets = np.array([1, 10, 100])
    values = np.array([[2.0, 2.0, 2.0], [4.0, 2.0, 0.0], [1.0, np.nan, 0.0]])
    np.testing.assert_allclose(area(budgets, values), [2.0, 2.0, np.nan])
    assert np.isnan(area(budgets[:1], values[:, :1])).all()


def test_size_for_a_level_is_interpolated_in_logs():
    budgets, mean = np.array([10, 100]), np.array([1.0, 0.01])
    assert size_for(budgets, mean, 0.1) == pytest.approx(np.sqrt(1000))
    assert size_for(budgets, mean, 2.0) == 10
    assert size_for(budgets, mean, 0.001) is None
    assert size_for(budgets, mean, 0.0) is None


def test_cpr_and_cmd_are_areas_over_the_share_kept():
    cpr, cmd = faithfulness_areas(
        np.array([5, 20]), np.array([10, 10]), np.array([[1.0, 9.0], [1.5, 9.0]])
    )
    # From 0 to f at one half, to 1 at the whole; a budget beyond the prompt is the whole.
    np.testing.assert_allclose(cpr, [0.25 + 0.5, 0.375 + 0.625])
    np.testing.assert_allclose(cmd, [0.25, 0.375 + 0.125])


def test_differences_are_paired():
    one, other = np.array([1.0, 2.0, np.nan]), np.array([0.5, 1.5, 1.0])
    mean = paired_difference(one, other)
    assert mean is not None
    assert (mean.mean, mean.low, mean.high, mean.n) == (0.5, 0.5, 0.5, 2)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("runs")
    model = tiny_model(folder / "model")
    transcoder, pairs = tiny_transcoder(model), tiny_pairs([12, 10])
    options = PruneOptions(methods=("fap", "random"), budgets=(4, 16), batch_size=2)
    paths = [folder / f"seed-{seed}" for seed in (0, 1)]
    for seed, path in enumerate(paths):
        pie_jax.prune(model, transcoder, pairs, options, out=path, seed=seed)
    return paths


def test_measures_of_a_run(runs):
    one, other = load_runs(runs, "fap").values()
    budgets, values = by_prompt(one, "fap", "kl_last")
    assert budgets.tolist() == [4, 16]
    assert values.mean(axis=0)[0] == pytest.approx(one.summary()["fap"][4].mean)
    same, drawn = (stability(one, other, name, 4) for name in ("fap", "random"))
    assert same is not None
    assert drawn is not None
    assert same.mean == 1.0
    assert drawn.mean < 0.5
    kept = kept_sets(one, "fap", 4)
    union = {(layer, feature) for places in kept.values() for layer, _, feature in places}
    assert unique_features(one, "fap", 4) == len(union)
    assert compression(one, "random")[4] == pytest.approx(1.0)


def test_compare_makes_tables_and_a_chart(runs):
    results = load_runs(runs, "fap")
    assert [table.row_count for _, table in kl_rows(results, "fap")] == [2, 2]
    assert area_table(results, "fap")[1].row_count == 4
    assert stability_table(results)[1].row_count == 2
    assert str(chart(results)).startswith("<svg")


def test_runs_that_cannot_be_compared_are_refused(runs, tmp_path):
    with pytest.raises(InputError, match="--baseline"):
        load_runs(runs, "auto")
    with pytest.raises(InputError, match="named twice"):
        load_runs([runs[0], runs[0]], "fap")
    with pytest.raises(InputError, match="not a results folder"):
        load_runs([tmp_path], "fap")
