"""A plan's sizes against what a prepared batch and its compiled programs take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from prune_helpers import tiny_model, tiny_pairs, tiny_transcoder
from refusals import refuses

import pie_jax
from pie_jax.models.abstract import parameter_count
from pie_jax.models.config import PRESETS
from pie_jax.prune.batch import occurrences
from pie_jax.prune.batch.pairs import batches
from pie_jax.prune.engine import kl, passes
from pie_jax.prune.engine.corruptions import rest_at_zero
from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.engine.removals import sharded as shard_cones
from pie_jax.prune.methods import METHODS, run_method
from pie_jax.prune.options import PruneOptions, SearchOptions
from pie_jax.prune.plan import memory
from pie_jax.prune.plan.estimate import load_of_tokens, make_plan, open_names
from pie_jax.prune.plan.memory import Load, Shapes
from pie_jax.prune.plan.sizes import parse_size, show_size
from pie_jax.prune.plan.speed import Rates, gradient_passes, seconds, work
from pie_jax.prune.step import Pruner
from pie_jax.tasks import Pair, encode_pairs, get_task
from pie_jax.transcoders.config import TranscoderConfig
from pie_jax.transcoders.store import Transcoder

OPTIONS = PruneOptions(methods=("fap", "fap-synergy"), budgets=(4, 8), judge_zero_features=True)
GIB = 1 << 30


@dataclass(frozen=True, eq=False)
class Case:
    """A prepared batch, and what the plan knows of it."""

    inputs: BatchEvaluator
    transcoder: Transcoder
    shapes: Shapes
    load: Load


def prepared(model: Any, transcoder: Transcoder, pairs: list[Pair]) -> Case:
    encoded, _ = encode_pairs(pairs, model.tokenizer, needs_target=True)
    (batch,) = batches(encoded, len(pairs))
    inputs = Pruner(model, transcoder, OPTIONS).prepare(batch)
    config = transcoder.config
    active = (inputs.occurrences.count / (batch.length - 1)).mean() / config.num_layers
    _, versions, tokens = batch.corrupted.shape
    load = Load(len(pairs), versions, tokens, int(batch.length.max()), batch.window, float(active))
    sizes = (transcoder.encoder_arrays[0].weight.itemsize, transcoder.decoder_maps[0].itemsize)
    return Case(inputs, transcoder, Shapes(model.config, config, 4, *sizes), load)


def demo(_: Path) -> Case:
    model, transcoder = pie_jax.load_model("demo"), pie_jax.load_transcoder("demo")
    pairs = get_task("ioi").generate(6, seed=0, tokenizer=model.tokenizer)
    return prepared(model, transcoder, pairs)


def tiny(folder: Path) -> Case:
    model = tiny_model(folder)
    return prepared(model, tiny_transcoder(model, 256, bias=-1.0), tiny_pairs([16, 15, 16, 14]))


CASES: dict[str, Callable[[Path], Case]] = {"demo": demo, "tiny": tiny}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return CASES[request.param](tmp_path_factory.mktemp("model"))


def nbytes(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def test_what_stays_is_known_to_the_byte(case: Case):
    layers = range(case.transcoder.config.num_layers)
    weights = nbytes(nnx.state(case.inputs.problem.model))
    assert memory.model_bytes(case.shapes) == weights
    encoders = [nbytes(nnx.state(case.transcoder.encoder(layer))) for layer in layers]
    assert [memory.encoder_bytes(case.shapes)] * len(layers) == encoders
    assert memory.decoder_bytes(case.shapes) == nbytes(list(case.transcoder.decoder_maps))


def test_a_batchs_arrays(case: Case):
    """Records and writes within 1%; occurrences and rows never less, and no more than the fullest
    prompt's bucket (x 2) and no shared features (x 4) explain."""
    problem = case.inputs.problem
    found = memory.batch_arrays(case.shapes, case.load)
    assert found["prompts' records"] == pytest.approx(nbytes(problem.window), rel=0.01)
    total = memory.total_writes_bytes(case.shapes, case.load)
    assert total == pytest.approx(case.inputs.total.nbytes, rel=0.01)
    real = nbytes((problem.writes, problem.delta))
    assert 1 <= found["occurrences"] / real <= 2
    assert 1 <= found["decoder rows"] / problem.table.nbytes <= 4


def taken(program: Any, *arguments: Any, **settings: Any) -> int:
    """Return what a compiled program allocates, results included."""
    found = program.lower(*arguments, **settings).compile().memory_analysis()
    return found.temp_size_in_bytes + found.output_size_in_bytes


@pytest.mark.slow
def test_what_stages_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Between three quarters and four times what the compiled programs allocate on a CPU."""
    case = tiny(tmp_path)
    inputs, shapes, load = case.inputs, case.shapes, case.load
    problem, metric = inputs.problem, inputs.metric
    gradient = np.zeros((load.batch, *problem.no_change().shape), np.float32)[:, :, : load.window]
    scores = taken(passes.attribute, problem, jax.numpy.asarray(gradient))
    kept = np.full((load.batch, 4, 8), -1, np.int32)
    padded, chunk = inputs._chunks(np.pad(kept, ((0, 0), (0, 1), (0, 0))), runs=2)
    assert memory.circuits_at_once(shapes, load, OPTIONS, runs=2) == chunk
    circuits = taken(
        kl.circuit_behaviour, problem, inputs.total, jax.numpy.asarray(padded), metric, chunk
    )
    whole = rest_at_zero(inputs)
    at_zero, side_by_side = whole._chunks(kept)
    judged = whole.total.nbytes + taken(
        kl.circuit_kl_last, whole.problem, whole.total, jax.numpy.asarray(at_zero), side_by_side
    )
    cones = shard_cones.cone_metrics
    removals = []

    def measured(*arguments: Any) -> Any:
        removals.append(taken(cones, *arguments))
        return cones(*arguments)

    monkeypatch.setattr(shard_cones, "cone_metrics", measured)
    run_method(METHODS["fap-synergy"], inputs, (4,))
    x = jax.numpy.zeros((load.batch, 1, load.tokens, shapes.model.d_model))
    encoder = case.transcoder.encoder(0)
    length = inputs.prompts.length
    encoding = taken(
        occurrences._union, encoder, 0, x, x[:, None], length * 0 + 1, length, capacity=2048
    )
    real = {
        "gradients and scores": scores,
        "circuits and logits": circuits,
        "judging at zero": max(judged, taken(passes.total_writes, whole.problem)),
        "streams of removals": max(removals),
        "encoding": encoding,
    }
    planned = memory.working_bytes(shapes, load, OPTIONS)
    planned["encoding"] = memory.reading_bytes(shapes, load)
    ratios = {name: planned[name] / size for name, size in real.items()}
    assert all(0.75 <= ratio <= 4 for ratio in ratios.values()), ratios


@pytest.mark.parametrize("preset", PRESETS)
def test_real_models_weigh_what_their_config_says(preset: str):
    config = PRESETS[preset]
    transcoder = TranscoderConfig(config.num_layers, config.d_model, 1024, "relu")
    assert memory.model_bytes(Shapes(config, transcoder, 2, 2, 2)) == 2 * parameter_count(config)


# A real shape


REAL = open_names("llama-3.2-1b", "16x32768", "bfloat16").shapes
PROMPTS = load_of_tokens(18, 64.0, PruneOptions())


def test_corruptions_that_are_made_count_beside_the_one_of_a_prompt():
    more = load_of_tokens(18, 64.0, PruneOptions(more_corruptions=3))
    assert more == replace(PROMPTS, versions=4)


def test_a_search_with_a_complement_runs_everything_twice():
    """Growing and learning; a path of the other kinds has no complement."""
    both, alone = (SearchOptions(complement=weight) for weight in (0.1, 0.0))
    auto = PruneOptions(methods=("auto",), budgets=(10, 20), search=both)
    assert gradient_passes(auto) == 2 * gradient_passes(replace(auto, search=alone)) > 0
    shrunk = replace(auto, methods=("staged",), search=replace(both, start="everything"))
    without = replace(shrunk, search=replace(shrunk.search, complement=0.0))
    assert gradient_passes(shrunk) == gradient_passes(without)


def test_the_published_transcoder_of_llama_is_18_gb():
    assert memory.decoder_bytes(REAL) == 16 * 17 // 2 * 32768 * 2048 * 2
    assert 16 * memory.encoder_bytes(REAL) == 16 * 32768 * 2049 * 2


def test_the_largest_batch_fits_and_one_more_does_not():
    options = PruneOptions()
    made = make_plan(REAL, PROMPTS, options, device=80 * GIB)
    assert made.largest is not None
    assert made.fits
    assert made.needed <= 0.75 * 80 * GIB
    for change, fits in ((0, True), (1, False)):
        load = replace(PROMPTS, batch=made.largest + change)
        assert memory.fits(REAL, load, options, made.encoders, 80 * GIB) is fits


def test_encoders_go_to_disk_where_the_batch_would_not_fit_beside_them():
    options = PruneOptions()
    load = replace(PROMPTS, batch=2)
    beside = memory.resident_bytes(REAL, "device") + memory.batch_bytes(REAL, load, options)
    device = int(beside / memory.USABLE) + 1
    assert make_plan(REAL, PROMPTS, options, device=device, batch=2).encoders == "device"
    less = make_plan(REAL, PROMPTS, options, device=device - 2, batch=2)
    assert less.encoders == "disk"
    assert less.fits
    nothing = make_plan(REAL, PROMPTS, options, device=GIB)
    assert nothing.largest is None
    assert not nothing.fits


def test_files_are_in_host_memory_where_it_has_room():
    def where(host: int | None) -> dict[str, str]:
        made = make_plan(REAL, PROMPTS, PruneOptions(), device=80 * GIB, host=host)
        return {name: place for name, (place, _) in made.places().items()}

    device = {"model weights": "device", "encoders": "device"}
    assert where(128 * GIB) == {**device, "decoders": "host"}
    assert where(16 * GIB) == where(None) == {**device, "decoders": "disk"}


def test_seconds_are_operations_and_bytes_over_rates():
    """The slower of the two limits, by hand for the simplest run."""
    options = PruneOptions(methods=("random",), budgets=(50,))
    load = replace(PROMPTS, batch=4)
    token = 2 * memory.block_parameters(REAL.model)
    encoding = 2 * 16 * 32768 * 2048 * 2
    done = work(REAL, load, options)
    positions = 4 * load.tokens
    assert done.prepare == positions * (2 * token + encoding)
    assert done.compute == positions * (2 * token + 2 * 128256 * 2048)
    at_zero = work(REAL, load, replace(options, judge_zero_features=True))
    # One more run of the whole prompt, and logits at its end.
    assert at_zero.compute - done.compute == positions * token + 4 * 2 * 128256 * 2048
    fast = seconds(REAL, load, options, "device", Rates(1e12, 1e30, None))
    assert fast.prepare == pytest.approx(done.prepare / 1e12)
    assert fast.compute == pytest.approx(done.compute / 1e12)
    assert fast.prompts_per_second(4) == 4 / max(fast.prepare, fast.compute)
    assert not fast.reads
    bound = seconds(REAL, load, options, "device", Rates(1e30, 1e9, 1e9))
    # Rows are read once, for the sum of what is active.
    read = memory.rows(REAL, load) * 2048 * 2
    moved = 2 * memory.model_bytes(REAL) + read
    assert bound.compute == pytest.approx(moved / 1e9)
    every = 16 * memory.encoder_bytes(REAL)
    disk = seconds(REAL, load, options, "disk", Rates(1e30, 1e9, 1e9))
    assert disk.prepare - bound.prepare == pytest.approx(every / 1e9)


def test_every_method_has_a_cost():
    """None but those that only read activations is free."""
    plain = work(REAL, PROMPTS, PruneOptions(methods=("random",))).compute
    for name in METHODS:
        cost = work(REAL, PROMPTS, PruneOptions(methods=(name,))).compute
        assert (cost > plain) == (name not in ("random", "activation-magnitude")), name


# Sizes


@pytest.mark.parametrize(
    ("text", "size"),
    [("80GiB", 80 << 30), ("24 GB", 24 * 10**9), ("1.5mib", 3 << 19), (" 7 B ", 7)],
)
def test_sizes(text: str, size: int):
    assert parse_size(text, "--device-memory") == size


@pytest.mark.parametrize("text", ["80 apples", "80", "", "-1GiB", "0GB", "GiB", "1e3GB", "8 G B"])
def test_what_is_no_size_is_refused(text: str):
    refuses(lambda: parse_size(text, "--device-memory"), "--device-memory", f"`{text}`")


def test_sizes_in_words():
    shown = {0: "0 B", 1023: "1023 B", 1536: "1.50 KiB", 80 << 30: "80.0 GiB", 1 << 49: "512 TiB"}
    assert {size: show_size(size) for size in shown} == shown
