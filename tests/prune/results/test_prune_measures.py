"""Measures over budgets, on numbers done by hand; `pie-jax compare` on two small runs."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from itertools import islice

import numpy as np
import pyarrow as pa
import pytest
from cli_helpers import pie
from prune_helpers import tiny_model, tiny_pairs, tiny_transcoder

import pie_jax
from pie_jax.errors import InputError
from pie_jax.intervals import bootstrap_ratio
from pie_jax.prune.options import PruneOptions
from pie_jax.prune.results.compare import chart, has_kl_zero, load_runs, run_tables, stability_table
from pie_jax.prune.results.measures import (
    CircuitSize,
    against_target,
    area,
    by_prompt,
    compression,
    faithfulness_areas,
    kept_sets,
    kl_ratios,
    overlap,
    paired_difference,
    size_for,
    sizes_for_baseline,
    stability,
    unique_features,
)
from pie_jax.prune.results.resumable_folder import load_result
from pie_jax.prune.results.tables import PruneResult


def test_area_is_a_mean_over_log_k():
    budgets = np.array([1, 10, 100])
    values = np.array([[2.0, 2.0, 2.0], [4.0, 2.0, 0.0], [1.0, np.nan, 0.0]])
    np.testing.assert_allclose(area(budgets, values), [2.0, 2.0, np.nan])
    assert np.isnan(area(budgets[:1], values[:, :1])).all()


def test_size_for_a_level_is_interpolated_in_logs():
    budgets, mean = np.array([10, 100]), np.array([1.0, 0.01])
    found = size_for(budgets, mean, 0.1)
    assert found is not None
    assert found == (pytest.approx(np.sqrt(1000)), "")
    # At the ends of the budgets: exact, or a bound.
    assert size_for(budgets, mean, 1.0) == (10, "")
    assert size_for(budgets, mean, 2.0) == (10, "≤")
    assert size_for(budgets, mean, 0.001) == (100, ">")
    assert size_for(budgets, mean, 0.0) is None


def test_a_ratio_is_of_means_over_the_same_prompts():
    one, other = np.array([1.0, 2.0, np.nan, 6.0]), np.array([2.0, 4.0, 1.0, 12.0])
    assert bootstrap_ratio(one, other) == (0.5, 0.5, 0.5, 3)
    # Not the mean of ratios; the interval is of pairs drawn together.
    ratio = bootstrap_ratio(np.array([1.0, 1.0]), np.array([1.0, 4.0]))
    assert ratio == (0.4, 0.25, 1.0, 2)
    assert bootstrap_ratio(one, np.zeros(4)) is None
    assert bootstrap_ratio(one, np.array([5.0, -1.0, 5.0, 5.0])) is None
    assert bootstrap_ratio(one, np.full(4, np.nan)) is None


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
    options = PruneOptions(
        methods=("fap", "random"), budgets=(4, 16), batch_size=2, judge_zero_features=True
    )
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
    kept, others = kept_sets(one, "fap", 4), kept_sets(one, "random", 4)
    shared = [len(kept[p] & others[p]) / len(kept[p] | others[p]) for p in kept]
    between = overlap(one, "fap", "random", 4)
    assert between is not None
    assert between.mean == pytest.approx(np.mean(shared))
    union = {(layer, feature) for places in kept.values() for layer, _, feature in places}
    assert unique_features(one, "fap", 4) == len(union)


def made(kl: dict[str, list[list[float]]], budgets: tuple[int, ...]) -> PruneResult:
    """Return a result with the KL of every method, prompt and budget."""
    rows = [
        {"prompt": prompt, "method": method, "budget": budget, "kl_last": value}
        for method, prompts in kl.items()
        for prompt, values in enumerate(prompts)
        for budget, value in zip(budgets, values, strict=True)
    ]
    empty = pa.table({})
    return PruneResult(empty, empty, pa.Table.from_pylist(rows), empty)


def test_beside_the_baseline_and_beside_random():
    """By hand: each KL falls by ten from budget to budget, over a decade of sizes."""
    kl = {
        "mine": [[1.0, 0.1], [3.0, 0.3]],
        "base": [[10.0, 1.0], [30.0, 3.0]],
        "random": [[100.0, 10.0], [300.0, 30.0]],
    }
    result = made(kl, (10, 100))
    ratios = kl_ratios(result, "mine", "base")
    assert list(ratios) == [10, 100]
    assert all(ratio == pytest.approx((0.1, 0.1, 0.1, 2)) for ratio in ratios.values())
    sizes = sizes_for_baseline(result, "mine", "base")
    ten, one = pytest.approx(10), pytest.approx(1)
    assert sizes == {10: (1.0, "≤"), 100: (pytest.approx(0.1), "")}
    assert sizes_for_baseline(result, "base", "base") == {10: (1, ""), 100: (one, "")}
    assert sizes_for_baseline(result, "base", "mine") == {
        10: (pytest.approx(10), ""),
        100: (1, ">"),
    }
    assert compression(result, "base") == {10: (ten, ""), 100: (1, ">")}
    # Random sets of more sizes bound less.
    more = made({"random": [[100.0, 1.0, 0.01], [300.0, 3.0, 0.03]]}, (10, 1000, 100_000))
    found = compression(result, "base", more)
    assert found == {10: (ten, ""), 100: (ten, "")}
    assert compression(made({"base": [[1.0]]}, (10,)), "base") == {}
    assert isinstance(found[10], CircuitSize)


def test_effect_against_the_target_is_a_share_of_fap_s_scores_by_magnitude(runs):
    result = load_result(runs[0])
    scores = {
        tuple(row[name] for name in ("prompt", "layer", "position", "feature")): row["fap"]
        for row in result.scores.to_pylist()
    }
    for method in ("fap", "random"):
        found = against_target(result, method)
        for budget in found:
            shares = []
            for prompt, kept in kept_sets(result, method, budget).items():
                own = [scores[prompt, *place] for place in kept]
                shares.append(-sum(min(x, 0) for x in own) / sum(map(abs, own)))
            assert found[budget] is not None
            assert found[budget].mean == pytest.approx(np.mean(shares), rel=1e-5)
            assert found[budget].n == len(shares)


def test_compare_makes_tables_and_a_chart(runs):
    results = load_runs(runs, "fap")
    tables = list(run_tables(results, "fap"))
    assert [table.row_count for _, table in tables] == [2] * 16
    titles = [title for title, _ in tables if title.startswith(str(runs[0]))]
    words = (
        "KL(clean",
        "by fap's",
        "by K",
        "random",
        "completeness",
        "against",
        "at zero",
        "log K",
    )
    assert all(word in title for word, title in zip(words, titles, strict=True))
    assert stability_table(results)[1].row_count == 2
    assert str(chart(results)).startswith("<svg")


def test_the_command_prints_them(runs, monkeypatch, capsys, tmp_path):
    plot = tmp_path / "kl.svg"
    assert pie(monkeypatch, "compare", *runs, "--baseline", "fap", "--plot", plot) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("completeness", "CPR", "Jaccard"))
    assert plot.read_text().startswith("<svg")


@pytest.mark.parametrize("shown_as", ["json", "csv"])
def test_the_command_prints_what_they_show_for_scripts(runs, monkeypatch, capsys, shown_as):
    command = ["compare", *runs, "--baseline", "fap", "--format", shown_as]
    assert pie(monkeypatch, *command) == 0
    text = capsys.readouterr().out
    if shown_as == "json":
        rows = json.loads(text)["comparison"]
        assert rows[0]["value"] >= 0
    else:
        rows = list(csv.DictReader(io.StringIO(text)))
        assert float(rows[0]["value"]) >= 0
    assert {row["run"] for row in rows} == set(map(str, runs))
    measures = {row["measure"] for row in rows}
    assert measures >= {"kl", "kl-ratio", "compression", "completeness", "against", "kl-zero"}
    assert measures >= {"area", "cpr", "cmd", "unique", "jaccard"}


def test_what_is_undefined_is_left_out_and_counted():
    result = made({"fap": [[1.0], [3.0]]}, (4,))
    behaviour = result.behaviour.append_column("completeness", pa.array([0.25, None]))
    old = replace(result, behaviour=behaviour)
    unasked = replace(old, behaviour=behaviour.append_column("kl_zero", pa.nulls(2, pa.float32())))
    for one in (old, unasked):
        assert not has_kl_zero(one)
        *_, (title, table) = islice(run_tables({"run": one}, "fap"), 4)
        assert "completeness" in title
        assert list(table.columns[1].cells) == ["0.250 (n 1)"]


def test_runs_that_cannot_be_compared_are_refused(runs, tmp_path):
    with pytest.raises(InputError, match="--baseline"):
        load_runs(runs, "auto")
    with pytest.raises(InputError, match="named twice"):
        load_runs([runs[0], runs[0]], "fap")
    with pytest.raises(InputError, match="not a results folder"):
        load_runs([tmp_path], "fap")
