"""The tables of a run: columns and types, features over prompts, means, undefined shares."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prune_helpers import columns, rows_where, tiny_model, tiny_pairs, tiny_transcoder

import pie_jax
from pie_jax.intervals import bootstrap_mean
from pie_jax.prune.options import PruneOptions
from pie_jax.prune.results.tables import TABLES, PruneResult, assemble, feature_id, split_feature_id
from pie_jax.prune.step import Columns

# Both batches of two have the same shapes.
LENGTHS = [16, 9, 15]
OPTIONS = PruneOptions(
    methods=("relp", "random", "fap"), budgets=(12, 4), batch_size=2, chunk_bytes=1 << 20
)

KEYS = {"prompt": pa.int64(), "method": pa.string(), "budget": pa.int32()}
OCCURRENCE = {"layer": pa.int32(), "position": pa.int32(), "feature": pa.int32()}
FLOAT = pa.float32()
TYPES = {
    "scores": {
        "prompt": pa.int64(),
        **OCCURRENCE,
        "activation_clean": FLOAT,
        "activation_corrupted": FLOAT,
        # `random` chooses sets: it has no scores. In the order asked for.
        "relp": FLOAT,
        "fap": FLOAT,
    },
    "selections": {**KEYS, **OCCURRENCE, "rank": pa.int32(), "score": FLOAT},
    "behaviour": {
        **KEYS,
        "kl_last": FLOAT,
        "kl_mean": FLOAT,
        "top1_changed": FLOAT,
        "metric_clean": FLOAT,
        "metric_circuit": FLOAT,
        "metric_null": FLOAT,
        "metric_complement": FLOAT,
        "faithfulness": FLOAT,
        "completeness": FLOAT,
        "kl_last_null": FLOAT,
        "kl_zero": FLOAT,
        "undefined": pa.string(),
    },
    "features": {
        "method": pa.string(),
        "budget": pa.int32(),
        "layer": pa.int32(),
        "feature": pa.int32(),
        "feature_id": pa.int64(),
        "prompts_active": pa.int32(),
        "prompts_kept": pa.int32(),
        "mean_abs_score": pa.float64(),
        "mean_score": pa.float64(),
        "positions": pa.list_(pa.int32()),
    },
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run of three prompts in two batches, in memory and in its folder."""
    folder = tmp_path_factory.mktemp("run")
    model = tiny_model(folder / "model")
    transcoder = tiny_transcoder(model)
    out = folder / "out"
    result = pie_jax.prune(model, transcoder, tiny_pairs(LENGTHS), OPTIONS, out=out)
    return SimpleNamespace(model=model, transcoder=transcoder, result=result, out=out)


@pytest.mark.parametrize("name", TABLES)
def test_columns_and_types(run: SimpleNamespace, name: str):
    for table in (run.result.tables()[name], pq.read_table(run.out / f"{name}.parquet")):
        found = {field.name: field.type for field in table.schema}
        assert list(found.items()) == list(TYPES[name].items())
        for column in table.schema.names:
            empty = column in ("kl_zero", "undefined")
            assert table[column].null_count == (len(table) if empty else 0)


def test_loading_gives_the_same(run: SimpleNamespace):
    again = pie_jax.load_result(run.out)
    for name, table in run.result.tables().items():
        assert again.tables()[name].equals(table), name
    assert again.record == run.result.record


def test_the_record(run: SimpleNamespace):
    record = run.result.record
    assert record["status"] == "complete"
    assert record["pairs"] == 3
    assert record["batches"] == 2
    assert record["skipped"] == {}
    assert record["skipped_pairs"] == []
    assert record["first_token"] == {"id": 1, "token": "w1", "kind": "bos"}
    assert record["config"]["budgets"] == [12, 4]
    assert set(record["config"]["sha256"]) == {"model", "transcoder", "pairs"}
    assert record["versions"]["pie-jax"]
    assert record["devices"]
    assert {"encode", "decoder rows", "behaviour", "method fap"} <= set(record["seconds"])


def test_rows_are_complete_and_in_order(run: SimpleNamespace):
    """One row a prompt, method and budget; prompts in order; ranks from 1."""
    behaviour, selections, scores = (
        columns(run.result.tables()[name]) for name in ("behaviour", "selections", "scores")
    )
    keys = list(zip(*(behaviour[name].tolist() for name in KEYS), strict=True))
    assert keys == [
        (prompt, method, budget)
        for prompt in range(3)
        for method in OPTIONS.methods
        for budget in OPTIONS.budgets
    ]
    for table in (selections, scores):
        assert (np.diff(table["prompt"]) >= 0).all()
    for prompt, method, budget in keys:
        kept = rows_where(selections, prompt=prompt, method=method, budget=budget)
        assert kept["rank"].tolist() == list(range(1, budget + 1))
        assert (np.diff(np.abs(kept["score"])) <= 0).all()
    for prompt, length in enumerate(LENGTHS):
        here = rows_where(scores, prompt=prompt)
        assert here["position"].min() == 1
        assert here["position"].max() == length - 1
        assert (np.maximum(here["activation_clean"], here["activation_corrupted"]) > 0).all()


def test_shares_follow_from_the_metrics(run: SimpleNamespace):
    behaviour = columns(run.result.behaviour)
    null, change = behaviour["metric_null"], behaviour["metric_clean"] - behaviour["metric_null"]
    for share, metric in (
        ("faithfulness", "metric_circuit"),
        ("completeness", "metric_complement"),
    ):
        expected = (behaviour[metric] - null) / change
        np.testing.assert_allclose(behaviour[share], expected, rtol=1e-5, atol=1e-6)


def slow_features(scores: Columns, selections: Columns) -> dict[tuple, dict]:
    """Aggregate kept occurrences one by one."""
    active = defaultdict(set)
    for layer, feature, prompt in zip(
        scores["layer"], scores["feature"], scores["prompt"], strict=True
    ):
        active[int(layer), int(feature)].add(int(prompt))
    kept: dict[tuple, list] = defaultdict(list)
    names = ("method", "budget", "layer", "feature", "prompt", "position", "score")
    for row in zip(*(selections[name].tolist() for name in names), strict=True):
        kept[row[:4]].append(row[4:])
    return {
        key: {
            "feature_id": (key[2] + key[3]) * (key[2] + key[3] + 1) // 2 + key[3],
            "prompts_active": len(active[key[2:]]),
            "prompts_kept": len({prompt for prompt, _, _ in rows}),
            "mean_abs_score": sum(abs(score) for *_, score in rows) / len(rows),
            "mean_score": sum(score for *_, score in rows) / len(rows),
            "positions": sorted({position for _, position, _ in rows}),
        }
        for key, rows in kept.items()
    }


def check_features(table: pa.Table, scores: Columns, selections: Columns) -> None:
    expected = slow_features(scores, selections)
    rows = table.to_pylist()
    assert len(rows) == len(expected)
    for row in rows:
        key = tuple(row.pop(name) for name in ("method", "budget", "layer", "feature"))
        theirs = expected[key]
        for name in ("mean_abs_score", "mean_score"):
            assert row.pop(name) == pytest.approx(theirs.pop(name), rel=1e-12)
        assert row == theirs


def test_features_are_the_kept_ones_over_prompts(run: SimpleNamespace):
    scores, selections = columns(run.result.scores), columns(run.result.selections)
    check_features(run.result.features, scores, selections)
    # Several prompts and several positions, or nothing was aggregated.
    features = run.result.features.to_pylist()
    assert max(row["prompts_kept"] for row in features) >= 2
    assert max(len(row["positions"]) for row in features) >= 2
    assert any(row["prompts_active"] > row["prompts_kept"] for row in features)


def part(seed: int, prompts: list[int], faithfulness: list[float]) -> dict[str, Columns]:
    """Return a batch's columns: two methods, one budget of three, two layers and five features."""
    rng = np.random.default_rng(seed)
    every = [(layer, position, f) for layer in (0, 1) for position in (1, 2) for f in range(5)]
    scores, kept, behaviour = [], [], []
    for prompt, share in zip(prompts, faithfulness, strict=True):
        found = [every[n] for n in sorted(rng.choice(len(every), 8, replace=False))]
        scores += [(prompt, *at, 1.0, 0.5, rng.standard_normal()) for at in found]
        for method in (0, 1):
            for rank, n in enumerate(rng.choice(8, 3, replace=False), start=1):
                kept.append((prompt, method, 3, *found[n], rank, rng.standard_normal()))
            behaviour.append((prompt, method, 3, rng.random(), share, share, rng.random()))
    names = ("prompt", *OCCURRENCE, "activation_clean", "activation_corrupted", "fap")
    return {
        "scores": as_columns(names, scores),
        "selections": as_columns((*KEYS, *OCCURRENCE, "rank", "score"), kept),
        "behaviour": as_columns((*KEYS, *MEASURES), behaviour),
    }


def as_columns(names: tuple[str, ...], rows: list[tuple]) -> Columns:
    kinds = {
        "prompt": np.int64,
        "method": np.int16,
        **dict.fromkeys(("budget", "rank", *OCCURRENCE), np.int32),
    }
    return {
        name: np.array(column, kinds.get(name, np.float32))
        for name, column in zip(names, zip(*rows, strict=True), strict=True)
    }


METHODS = ("fap", "random")
MEASURES = ("kl_last", "faithfulness", "completeness", "kl_zero")


@pytest.mark.parametrize("seed", range(3))
def test_batches_are_put_together_by_prompt(seed: int):
    """Batches hold prompts by length, not in order."""
    parts = [part(seed, [4, 1], [0.1, 0.2]), part(seed + 9, [0, 3, 2], [0.3, 0.4, 0.5])]
    tables = assemble(parts, METHODS)
    for name in ("scores", "selections", "behaviour"):
        prompt = tables[name]["prompt"].to_pylist()
        assert prompt == sorted(prompt)
        for field in tables[name].schema.names:
            if field in ("method", "undefined"):
                continue
            ours = columns(tables[name])
            for wanted in range(5):
                source = next(p for p in parts if wanted in p[name]["prompt"])[name]
                theirs = source[field][source["prompt"] == wanted]
                np.testing.assert_array_equal(ours[field][ours["prompt"] == wanted], theirs)
    assert set(tables["selections"]["method"].to_pylist()) == set(METHODS)
    check_features(tables["features"], columns(tables["scores"]), columns(tables["selections"]))


def test_undefined_shares_are_null_with_a_reason():
    nan = float("nan")
    tables = assemble([part(0, [0, 1, 2], [0.25, nan, 0.75])], METHODS)
    behaviour = tables["behaviour"]
    for name in ("faithfulness", "completeness"):
        assert behaviour[name].to_pylist() == [0.25, 0.25, None, None, 0.75, 0.75]
    reason = behaviour["undefined"].to_pylist()
    assert reason == [None, None, *["metric_clean equals metric_null"] * 2, None, None]
    result = PruneResult(**tables)
    mean = result.summary("faithfulness")["fap"][3]
    assert mean is not None
    assert (mean.mean, mean.n) == (0.5, 2)


def test_a_transcoder_that_writes_nothing_leaves_them_undefined(run: SimpleNamespace):
    """Clean and null are the same run: null in the table, never 0, and no mean."""
    silent = replace(
        run.transcoder, decoder_maps=[0 * rows for rows in run.transcoder.decoder_maps]
    )
    result = pie_jax.prune(run.model, silent, tiny_pairs(LENGTHS), OPTIONS)
    behaviour = result.behaviour
    for name in ("faithfulness", "completeness"):
        assert behaviour[name].null_count == len(behaviour)
        assert set(result.summary(name)["fap"].values()) == {None}
    assert set(behaviour["undefined"].to_pylist()) == {"metric_clean equals metric_null"}
    assert behaviour["metric_clean"].equals(behaviour["metric_null"])
    assert result.summary()["fap"][4].n == 3


def test_a_transcoder_that_never_fires_keeps_nothing(run: SimpleNamespace):
    """Empty tables with their columns, and a behaviour that is the clean model's."""
    encoders = [arrays._replace(bias=arrays.bias - 1e6) for arrays in run.transcoder.encoder_arrays]
    dead = replace(run.transcoder, encoder_arrays=encoders)
    result = pie_jax.prune(run.model, dead, tiny_pairs(LENGTHS), OPTIONS)
    for name, types in TYPES.items():
        table = result.tables()[name]
        assert {field.name: field.type for field in table.schema} == types
        assert len(table) == (18 if name == "behaviour" else 0)
    np.testing.assert_allclose(columns(result.behaviour)["kl_last"], 0, atol=1e-6)
    assert result.behaviour["faithfulness"].null_count == 18


# Feature ids

layers = st.integers(0, 200)
features = st.integers(0, 2**31 - 201)


@given(st.lists(st.tuples(layers, features), min_size=1, max_size=20))
def test_feature_ids_round_trip(pairs: list[tuple[int, int]]):
    """Up to the largest int32: floating-point square roots would be off by then."""
    layer, feature = np.array(pairs, np.int32).T
    identifier = feature_id(layer, feature)
    assert identifier.dtype == np.int64
    expected = [(a + b) * (a + b + 1) // 2 + b for a, b in pairs]
    assert identifier.tolist() == expected
    again = split_feature_id(identifier)
    np.testing.assert_array_equal(again[0], layer)
    np.testing.assert_array_equal(again[1], feature)


def test_feature_ids_are_the_ecosystems():
    """Cantor pairs in order: (0,0) 0, (1,0) 1, (0,1) 2, (2,0) 3, ..."""
    layer, feature = np.array([0, 1, 0, 2, 1, 0]), np.array([0, 0, 1, 0, 1, 2])
    assert feature_id(layer, feature).tolist() == list(range(6))
    # The last feature of Gemma-2's last layer in the published transcoders.
    assert feature_id(np.array([25]), np.array([16383])).tolist() == [134635819]


# Means


def test_bootstrap_ignores_undefined_values():
    values = np.array([1.0, np.nan, 3.0, np.nan, 8.0])
    mean = bootstrap_mean(values)
    assert mean is not None
    assert mean == bootstrap_mean(np.array([1.0, 3.0, 8.0]))
    assert (mean.mean, mean.n) == (4.0, 3)
    assert 1 <= mean.low <= mean.mean <= mean.high <= 8
    assert bootstrap_mean(np.array([np.nan, np.nan])) is None
    assert bootstrap_mean(np.array([])) is None


def test_bootstrap_of_one_value_has_no_width():
    assert bootstrap_mean(np.array([2.5])) == (2.5, 2.5, 2.5, 1)
    assert bootstrap_mean(np.full(7, 0.5)) == (0.5, 0.5, 0.5, 7)


def test_bootstrap_interval_is_about_two_standard_errors():
    values = np.random.default_rng(0).standard_normal(400)
    mean = bootstrap_mean(values)
    assert mean is not None
    error = values.std() / np.sqrt(len(values))
    assert mean.high - mean.mean == pytest.approx(1.96 * error, rel=0.1)
    assert mean.mean - mean.low == pytest.approx(1.96 * error, rel=0.1)


def test_summary_and_null(run: SimpleNamespace):
    behaviour = columns(run.result.behaviour)
    summary = run.result.summary()
    assert list(summary) == list(OPTIONS.methods)
    for method, by_budget in summary.items():
        assert list(by_budget) == [4, 12]
        for budget, mean in by_budget.items():
            rows = rows_where(behaviour, method=method, budget=budget)
            assert mean is not None
            assert mean.n == 3
            assert mean.mean == pytest.approx(rows["kl_last"].mean(), rel=1e-6)
    null = run.result.null()
    assert null is not None
    per_prompt = [rows_where(behaviour, prompt=p)["kl_last_null"][0] for p in range(3)]
    assert null.mean == pytest.approx(np.mean(per_prompt), rel=1e-6)
    assert null.n == 3
