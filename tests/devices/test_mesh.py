"""Prompts over `data`, weights over `model`: one device's results, no traffic, no copies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cli_helpers import pie
from flax import nnx
from jax.sharding import PartitionSpec as P
from mesh_helpers import OPTIONS, PAIRS, collectives, same_results, shard_shares
from prune_helpers import prepare, tiny_model, tiny_transcoder
from refusals import refuses

import pie_jax
from pie_jax.devices import placement
from pie_jax.devices.mesh import fetch, mesh_of, put
from pie_jax.devices.placement import MODEL_AXES, leaf_name, weight_spec
from pie_jax.models.gradient_rules import GRADIENT_RULES
from pie_jax.models.loader import LanguageModel
from pie_jax.prune.batch.metrics import METRICS
from pie_jax.prune.batch.problem import Problem
from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.engine.kl import circuit_behaviour, circuit_kl_last
from pie_jax.prune.engine.passes import (
    attribute,
    metric_gradients,
    removal_metrics,
    total_writes,
    transcoder_inputs,
)
from pie_jax.prune.engine.per_shard import _on_mesh, per_shard
from pie_jax.prune.on_mesh import on_mesh
from pie_jax.prune.results.tables import PruneResult
from pie_jax.transcoders.store import Transcoder

MESHES = ("data=4,model=2", "data=8", "model=8")
METRIC = METRICS["logit-diff"]


@dataclass
class Tiny:
    """A tiny model with its transcoder, and what one device computes with them."""

    model: LanguageModel
    transcoder: Transcoder
    single: PruneResult

    def inputs(self, mesh: str) -> BatchEvaluator:
        """Return eight pairs' inputs on a mesh."""
        placed = on_mesh(self.model, self.transcoder, pie_jax.make_mesh(mesh))
        return prepare(*placed, PAIRS[:8], OPTIONS)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    model = tiny_model(tmp_path_factory.mktemp("mesh"))
    transcoder = tiny_transcoder(model)
    return Tiny(model, transcoder, pie_jax.prune(model, transcoder, PAIRS, OPTIONS))


# The mesh itself


@pytest.mark.parametrize("axes", ["data=4,model=2", " model = 2 , data=4", {"model": 2, "data": 4}])
def test_a_mesh_has_both_axes(axes: Any):
    assert dict(pie_jax.make_mesh(axes).shape) == {"data": 4, "model": 2}


def test_an_absent_axis_is_one():
    assert dict(pie_jax.make_mesh("model=8").shape) == {"data": 1, "model": 8}


@pytest.mark.parametrize(
    ("axes", "named"),
    [
        ("data=4,modle=2", "`modle`"),
        ("", "``"),
        ("8", "`8`"),
        ("data=4,model=4", "takes 16 devices, but there are 8"),
        ("data=4", "takes 4 devices"),
        ("data=four", "`four`"),
        ("data=", "``"),
        ("data=0,model=8", "`0`"),
        ({"data": -8}, "`-8`"),
        ("data=4,data=2", "twice"),
    ],
)
def test_a_mesh_that_means_nothing_is_refused(axes: Any, named: str):
    refuses(lambda: pie_jax.make_mesh(axes), "--mesh", named)


def test_the_command_line_refuses_with_code_2(monkeypatch, tmp_path: Path, capsys):
    assert pie(monkeypatch, "tasks", "ioi", "-n", 2, "--out", tmp_path / "pairs.jsonl") == 0
    command = ["prune", "--pairs", tmp_path / "pairs.jsonl", "--out", tmp_path / "out"]
    assert pie(monkeypatch, *command, "--mesh", "data=3") == 2
    assert "takes 3 devices, but there are 8" in capsys.readouterr().err
    assert pie(monkeypatch, *command, "--process", 1) == 2
    assert "--coordinator" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_host_arrays_go_and_come_back():
    values = np.arange(48, dtype=np.float32).reshape(16, 3)
    for mesh in (None, pie_jax.make_mesh("data=4,model=2")):
        there = put(mesh, values)
        assert mesh_of(there) == mesh
        np.testing.assert_array_equal(fetch(there), values)
    assert shard_shares(there) == {1 / 4}


def test_what_is_put_does_not_change_with_its_source():
    values = np.zeros((8, 1024), np.float32)
    there = put(pie_jax.make_mesh("data=8"), values)
    values += 1
    assert not fetch(there).any()


# Results


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
def test_results_are_one_devices(tiny: Tiny, mesh: str):
    result = pie_jax.prune(
        tiny.model, tiny.transcoder, PAIRS, OPTIONS, mesh=pie_jax.make_mesh(mesh)
    )
    same_results(result, tiny.single)
    assert result.record["mesh"] == dict(pie_jax.make_mesh(mesh).shape)
    assert tiny.single.record["mesh"] is None


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["data=4,model=2"])
def test_exact_methods_give_one_devices_results(tiny: Tiny, mesh: str):
    options = replace(OPTIONS, methods=("fap-synergy", "staged", "acdc"), budgets=(6,))
    single = pie_jax.prune(tiny.model, tiny.transcoder, PAIRS[:4], options)
    placed = pie_jax.make_mesh(mesh)
    result = pie_jax.prune(tiny.model, tiny.transcoder, PAIRS[:4], options, mesh=placed)
    same_results(result, single)


@pytest.mark.slow
def test_a_tasks_circuits_are_one_devices(tiny: Tiny):
    options = replace(OPTIONS, methods=("fap", "staged"), budgets=(4,))
    single, result = (
        pie_jax.prune_task(tiny.model, tiny.transcoder, PAIRS[:8], options, mesh=mesh)
        for mesh in (None, pie_jax.make_mesh("data=4,model=2"))
    )
    for method in options.methods:
        assert result.features(method, 4) == single.features(method, 4)
    for name in ("kl_last", "kl_last_null"):
        found, expected = (one.task_behaviour[name].to_numpy() for one in (result, single))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_batch_size_is_rounded_up(tiny: Tiny):
    """The record holds the size that was used, so that a resumed run meets the same batches."""
    options = replace(OPTIONS, batch_size=5)
    mesh = pie_jax.make_mesh("data=8")
    result = pie_jax.prune(tiny.model, tiny.transcoder, PAIRS, options, mesh=mesh)
    assert result.record["config"]["batch_size"] == 8
    assert result.record["batches"] == 3
    same_results(result, tiny.single)


def test_a_run_resumes_on_another_mesh(tiny: Tiny, tmp_path: Path):
    """What a mesh decides is not part of what two runs must share."""

    class Stopped(Exception):
        pass

    def stop(*_: Any) -> None:
        raise Stopped

    def run(mesh: str, **rest: Any) -> PruneResult:
        on = pie_jax.make_mesh(mesh)
        return pie_jax.prune(
            tiny.model, tiny.transcoder, PAIRS, OPTIONS, mesh=on, out=tmp_path, **rest
        )

    with pytest.raises(Stopped):
        run("data=8", progress=stop)
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["batch-000000.npz"]
    same_results(run("data=4,model=2"), tiny.single)


# Traffic


def test_scoring_over_data_sends_nothing(tiny: Tiny):
    inputs = tiny.inputs("data=8")
    problem, rule = inputs.problem, GRADIENT_RULES["frozen"]
    _, gradient = metric_gradients(problem, METRIC, rule)
    assert collectives(metric_gradients.lower(problem, METRIC, rule).compile()) == set()
    assert collectives(attribute.lower(problem, gradient).compile()) == set()
    assert shard_shares(gradient) == shard_shares(attribute(problem, gradient)) == {1 / 8}


@pytest.mark.slow
def test_measuring_over_data_sends_nothing(tiny: Tiny):
    inputs = tiny.inputs("data=8")
    problem, total = inputs.problem, inputs.total
    sets = inputs.put(np.zeros((8, 4, 2), np.int32))
    for lowered in (
        _on_mesh(total_writes, mesh_of(total), 0, ()).lower(problem),
        transcoder_inputs.lower(problem.model, problem.prompt.tokens, "resid_mid"),
        removal_metrics.lower(problem, sets, METRIC, 2),
        circuit_behaviour.lower(problem, total, sets, METRIC, 2),
        circuit_kl_last.lower(problem, total, sets, 2),
    ):
        assert collectives(lowered.compile()) == set()
    assert shard_shares(total) == {1 / 8}


def test_traffic_is_seen_where_there_is_some(tiny: Tiny):
    """A loop over prompts that every device runs gathers them; weights over `model` are summed."""
    loop = jax.jit(lambda batch: jax.lax.map(jax.numpy.sum, batch))
    assert "all-gather" in collectives(loop.lower(tiny.inputs("data=8").problem.delta).compile())
    problem = tiny.inputs("model=8").problem
    lowered = metric_gradients.lower(problem, METRIC, GRADIENT_RULES["frozen"])
    assert "all-reduce" in collectives(lowered.compile())


@pytest.mark.slow
def test_a_pass_on_each_shard_gives_the_same(tiny: Tiny):
    inputs = tiny.inputs("data=4,model=2")
    gradient = metric_gradients(inputs.problem, METRIC, GRADIENT_RULES["frozen"])[1]
    whole = attribute(inputs.problem, gradient)
    parts = per_shard(attribute, inputs.problem, gradient)
    np.testing.assert_allclose(fetch(parts), fetch(whole), rtol=1e-5, atol=1e-6)
    sets = inputs.put(np.tile(np.arange(6, dtype=np.int32).reshape(1, 3, 2), (8, 1, 1)))
    whole = removal_metrics(inputs.problem, sets, METRIC, 3)
    parts = per_shard(removal_metrics, inputs.problem, sets, metric=METRIC, chunk=3)
    np.testing.assert_allclose(fetch(parts), fetch(whole), rtol=1e-5)


def steps(problem: Problem, count: jax.Array) -> jax.Array:
    """Run each prompt's model `count` times, each on what the last one left; [B]."""

    def one(of_prompt: Any) -> jax.Array:
        tokens, count = of_prompt

        def step(_: Any, delta: jax.Array) -> jax.Array:
            return jnp.tanh(problem.model.streams(tokens, delta).mlp_out)

        return jax.lax.fori_loop(0, count, step, problem.no_change()).sum()

    return jax.lax.map(one, (problem.prompt.tokens, count))


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
def test_loops_of_every_shards_own_length(tiny: Tiny, mesh: str):
    """Shards of prompts run different numbers of steps, and none waits for another's weights."""
    inputs, one = tiny.inputs(mesh), prepare(tiny.model, tiny.transcoder, PAIRS[:8], OPTIONS)
    count = np.array([5, 0, 1, 3, 6, 2, 2, 0], np.int32)
    expected = np.asarray(jax.jit(steps)(one.problem, jnp.asarray(count)))
    assert len(set(expected.tolist())) > 5
    found = per_shard(steps, inputs.problem, inputs.put(count))
    # Sums of hundreds of numbers around one, which nearly cancel in some prompts.
    most = np.abs(expected).max()
    np.testing.assert_allclose(fetch(found), expected, rtol=1e-5, atol=1e-5 * most)
    if mesh == "data=8":
        assert (
            collectives(
                _on_mesh(steps, mesh_of(found), 1, ())
                .lower(inputs.problem, inputs.put(count))
                .compile()
            )
            == set()
        )


# Shards


def weights(tiny: Tiny, inputs: BatchEvaluator) -> dict[str, jax.Array]:
    """Return every weight of a batch by its name in `MODEL_AXES`."""
    state = nnx.to_flat_state(nnx.state(inputs.problem.model))
    found = {leaf_name(path): leaf.get_value() for path, leaf in state}
    encoder = on_mesh(tiny.model, tiny.transcoder, mesh_of(inputs.problem.table))[1].encoder(0)
    found |= {"encoder.weight": encoder.weight[...], "encoder.bias": encoder.bias[...]}
    return {**found, "decoder.table": inputs.problem.table}


def test_each_device_holds_an_eighth_of_the_weights(tiny: Tiny):
    inputs = tiny.inputs("model=8")
    found = weights(tiny, inputs)
    assert set(found) >= set(MODEL_AXES) - {"encoder.threshold"}
    for name, array in found.items():
        assert shard_shares(array) == {1 / 8 if name in MODEL_AXES else 1}, name
    # What the compiled program takes is a device's part too.
    lowered = metric_gradients.lower(inputs.problem, METRIC, GRADIENT_RULES["frozen"])
    held = lowered.compile().memory_analysis().argument_size_in_bytes
    every = sum(leaf.nbytes for leaf in jax.tree.leaves(inputs.problem))
    assert held < every / 4


def test_prompts_are_spread_and_weights_are_not_cut_over_data(tiny: Tiny):
    inputs = tiny.inputs("data=8")
    problem = inputs.problem
    for array in jax.tree.leaves((problem.prompt, problem.writes, problem.delta)):
        assert shard_shares(array) == {1 / 8}
    assert all(shard_shares(array) == {1} for array in weights(tiny, inputs).values())


def test_the_first_axis_that_divides_is_cut():
    mesh = pie_jax.make_mesh("model=8")
    query = "blocks.attention.query"
    assert weight_spec(query, (3, 16, 8, 4), mesh) == P(None, None, "model")
    assert weight_spec(query, (3, 16, 6, 4), mesh) == P(None, "model")
    assert weight_spec(query, (3, 15, 6, 4), mesh) == P()
    assert weight_spec("final_norm.weight", (16,), mesh) == P()


def read_shares(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Note from now on which share of a weight each read takes."""
    seen: list[float] = []
    place = placement.place

    def watched(mesh: Any, shape: Any, spec: P, read: Any) -> jax.Array:
        def noted(index: Any) -> np.ndarray:
            part = read(index)
            if spec != P():
                seen.append(part.size / np.prod(shape))
            return part

        return place(mesh, shape, spec, noted)

    monkeypatch.setattr(placement, "place", watched)
    return seen


def test_each_shard_reads_its_own_part(reference, monkeypatch: pytest.MonkeyPatch):
    """And the parts together are what one device loads."""
    ours = reference("llama")
    seen = read_shares(monkeypatch)
    mesh = pie_jax.make_mesh("data=4,model=2")
    model = pie_jax.load_model(ours.folder / "model", mesh=mesh)
    clt = pie_jax.load_transcoder(ours.folder / "clt", mesh=mesh)
    assert set(seen) == {1 / 2}
    for found, expected in (
        (model.transformer, ours.model.transformer),
        (clt.resident, ours.transcoder.resident),
    ):
        leaves = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
        for leaf, whole in leaves:
            assert mesh_of(leaf) == mesh
            np.testing.assert_array_equal(fetch(leaf), np.asarray(whole))


def test_table_rows_are_read_by_their_shard(tiny: Tiny, monkeypatch: pytest.MonkeyPatch):
    one = prepare(tiny.model, tiny.transcoder, PAIRS[:8], OPTIONS).problem
    model, transcoder = on_mesh(tiny.model, tiny.transcoder, pie_jax.make_mesh("model=8"))
    transcoder = replace(transcoder, encoder_arrays=transcoder.encoder_arrays)
    seen = read_shares(monkeypatch)
    cut = prepare(model, transcoder, PAIRS[:8], OPTIONS).problem
    assert set(seen) == {1 / 8}
    np.testing.assert_array_equal(fetch(cut.table)[: len(one.table)], one.table)
    assert not fetch(cut.table)[len(one.table) :].any()


def test_a_broken_shard_is_refused(tiny: Tiny):
    """NaN in one shard's rows or encoder, wherever they are read."""
    mesh = pie_jax.make_mesh("model=8")
    arrays = list(tiny.transcoder.encoder_arrays)
    broken = arrays[1].weight.copy()
    broken[-1, 0] = np.nan
    arrays[1] = arrays[1]._replace(weight=broken)
    transcoder = replace(tiny.transcoder, encoder_arrays=arrays, mesh=mesh)
    refuses(lambda: transcoder.encoder(1), "encoder 1", "NaN")
