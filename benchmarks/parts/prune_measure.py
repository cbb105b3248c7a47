"""Times of the parts of pruning, on batches of random or given weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import jax
import numpy as np

import pie_jax
from benchmarks.parts.timing import compiling
from pie_jax.models.config import ModelConfig
from pie_jax.models.gradient_rules import GRADIENT_RULES
from pie_jax.models.loader import LanguageModel
from pie_jax.prune.batch.pairs import PairBatch, batches
from pie_jax.prune.engine.evaluator import BatchEvaluator
from pie_jax.prune.engine.passes import attribute, metric_gradients
from pie_jax.prune.engine.removals import plan as cones
from pie_jax.prune.engine.removals import sharded as shard_cones
from pie_jax.prune.engine.selection import PADDING
from pie_jax.prune.methods import METHODS, run_method
from pie_jax.prune.options import PruneOptions
from pie_jax.prune.run import on_one_device
from pie_jax.prune.run import run_parts as run_batches
from pie_jax.prune.step import Pruner
from pie_jax.tasks import Pair, encode_pairs
from pie_jax.transcoders.store import Transcoder


@dataclass(frozen=True)
class Work:
    """What is measured, on which weights."""

    folder: Path
    pairs: list[Pair]
    methods: tuple[str, ...]
    budgets: tuple[int, ...]
    batch_size: int
    dtype: str
    encoders: str

    @cached_property
    def model(self) -> LanguageModel:
        """Return the model, loaded once."""
        return pie_jax.load_model(self.folder / "model", self.dtype)

    @cached_property
    def transcoder(self) -> Transcoder:
        """Return the transcoder, its decoders on disk."""
        return pie_jax.load_transcoder(
            self.folder / "transcoder", encoders_on_disk=self.encoders == "disk"
        )

    def batches(self) -> list[PairBatch]:
        """Return the batches, the first of which is to warm up."""
        encoded, _ = encode_pairs(self.pairs, self.model.tokenizer, needs_target=True)
        return batches(encoded, self.batch_size)


def measure(
    work: Work, *, plain: bool, report: Callable[[dict[str, Any]], None] = lambda found: None
) -> dict[str, Any]:
    """Return seconds per prompt of every part, what the first batch took with all its compiling,
    the rates reached, and the prompts a second of a run.

    `report` gets what is known so far after every part of the first batch and every later batch.
    """
    options = PruneOptions(
        methods=work.methods, budgets=work.budgets, batch_size=work.batch_size, plain=plain
    )
    pruner = Pruner(work.model, work.transcoder, options)
    plan = work.batches()
    found: dict[str, Any] = {"status": "first batch"}
    start = time.perf_counter()
    with compiling() as seconds:

        def begun(parts: dict[str, float]) -> None:
            found["compile_seconds"] = sum(seconds)
            found["first_batch"] = {"seconds": time.perf_counter() - start, "parts": dict(parts)}
            report(found)

        run_parts(pruner, plan[0], begun)
    rounds: list[_Round] = []
    for batch in plan[1:]:
        rounds.append(_warm_parts(pruner, batch))
        found["status"] = f"parts of {len(rounds)} of {len(plan) - 1} batches"
        found |= _figures(rounds, work.batch_size)
        report(found)
    if not plain:
        start, finished = time.perf_counter(), []

        def one_more(done: int, total: int, unit: str) -> None:
            finished.append(time.perf_counter() - start)
            found["status"] = f"run of {done} of {total} {unit}"
            found["run"] = _steady(finished, work.batch_size)
            report(found)

        run_batches(pruner, plan, None, one_more, ahead=on_one_device(work.model))
    found["status"] = "complete"
    return found


def _figures(rounds: list[_Round], size: int) -> dict[str, Any]:
    """Return medians over warm batches."""
    parts = {
        name: _spread([one.seconds[name] / size for one in rounds]) for name in rounds[0].seconds
    }
    alone = [name for name in parts if name.startswith("synergy, K")]
    whole = sum(one["median"] for name, one in parts.items() if name not in alone)
    rates: dict[str, float] = {}
    for name in rounds[0].amounts:
        rates[name] = median(one.amounts[name] / one.seconds[one.of[name]] for one in rounds)
    return {
        "parts": parts,
        "rates": rates,
        "prompts_per_second": 1 / whole,
        "occurrences": float(np.mean([one.occurrences for one in rounds])),
        "table_mib": max(one.table_bytes for one in rounds) / 2**20,
    }


def _steady(finished: list[float], size: int) -> dict[str, Any]:
    """Return the prompts a second from the end of the first batch on; None of one batch."""
    later = len(finished) - 1
    rate = later * size / (finished[-1] - finished[0]) if later else None
    return {"finished_seconds": list(finished), "prompts_per_second": rate}


def _warm_parts(pruner: Pruner, batch: PairBatch) -> _Round:
    """Time a batch, once more where its shapes were new and had to be compiled."""
    with compiling() as seconds:
        one = run_parts(pruner, batch)
    return run_parts(pruner, batch) if seconds else one


@dataclass
class _Round:
    """One batch: seconds of each part, what some of them moved or multiplied, and sizes."""

    seconds: dict[str, float]
    amounts: dict[str, float]
    of: dict[str, str]
    after: Callable[[dict[str, float]], None]
    occurrences: float = 0.0
    rows: int = 0
    table_bytes: int = 0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start
        self.after(self.seconds)

    def did(self, what: str, part: str, amount: float) -> None:
        self.amounts[what], self.of[what] = amount, part


def run_parts(
    pruner: Pruner,
    batch: PairBatch,
    after: Callable[[dict[str, float]], None] = lambda seconds: None,
) -> _Round:
    """Run every part of pruning on one batch, and time each; `after` gets the seconds so far."""
    one = _Round({}, {}, {}, after)
    config = pruner.model_config
    before = dict(pruner.seconds)
    inputs = pruner.prepare(batch)
    for name in ("encode", "decoder rows"):
        one.seconds[name] = pruner.seconds[name] - before.get(name, 0.0)
    with one.part("what is not ready yet"):
        jax.block_until_ready(inputs.problem)
    one.seconds["decoder rows"] += one.seconds.pop("what is not ready yet")
    one.occurrences = float(inputs.occurrences.count.mean())
    one.rows = _distinct_rows(inputs)
    one.table_bytes = inputs.problem.table.nbytes
    with one.part("gradients"):
        rule = GRADIENT_RULES[inputs.options.gradient]
        _, gradient = jax.block_until_ready(metric_gradients(inputs.problem, inputs.metric, rule))
    with one.part("score"):
        jax.block_until_ready(attribute(inputs.problem, gradient))
    one.did("gathered_rows_bytes", "score", _row_bytes(inputs))
    with one.part("writes in total"):
        jax.block_until_ready(inputs.total)
    inputs.attribution(inputs.options.gradient)
    kept = []
    for name in inputs.options.methods:
        if name == "fap-synergy":
            for budget in inputs.options.budgets:
                with one.part(f"synergy, K = {budget}"), counted(config) as flops:
                    kept += run_method(METHODS[name], inputs, (budget,))
                one.did(f"pair_scan_K={budget}_flops", f"synergy, K = {budget}", flops[0])
            with one.part("synergy, all budgets together"), counted(config) as flops:
                run_method(METHODS[name], inputs, inputs.options.budgets)
            one.did("pair_scan_flops", "synergy, all budgets together", flops[0])
        else:
            with one.part(name if name != "fap" else "fap, choosing"):
                kept += run_method(METHODS[name], inputs, inputs.options.budgets)
    widest = max(inputs.options.budgets)
    sets = [
        np.pad(k.kept, ((0, 0), (0, widest - k.kept.shape[1])), constant_values=PADDING)
        for k in kept
    ]
    with one.part("behaviour"):
        inputs.behaviour(np.stack(sets, axis=1))
    return one


def _distinct_rows(inputs: BatchEvaluator) -> int:
    """Return how many decoder rows were read: those of a feature once for all that share it."""
    writes, valid = inputs.problem.writes, inputs.occurrences.valid
    _, where = np.unique(np.asarray(writes.start)[valid], return_index=True)
    rows = (np.asarray(writes.last) - np.asarray(writes.first) + 1)[valid]
    return int(rows[where].sum())


def _row_bytes(inputs: BatchEvaluator) -> float:
    """Return the bytes of the decoder rows that the scores multiply, one set an occurrence."""
    writes, valid = inputs.problem.writes, inputs.occurrences.valid
    rows = (np.asarray(writes.last) - np.asarray(writes.first) + 1)[valid].sum()
    table = inputs.problem.table
    return float(rows) * table.shape[1] * table.dtype.itemsize


@contextmanager
def counted(config: ModelConfig) -> Iterator[list[float]]:
    """Sum the matmul FLOPs of the model's weights in the cones that run meanwhile."""
    flops = [0.0]
    original: Callable[..., list[cones.Plan]] = shard_cones.plan

    def plan(*args: Any) -> list[cones.Plan]:
        found = original(*args)
        flops[0] += sum(cone_flops(config, one) for one in found)
        return found

    shard_cones.plan = plan
    try:
        yield flops
    finally:
        shard_cones.plan = original


def cone_flops(config: ModelConfig, plan: cones.Plan) -> float:
    """Return the FLOPs of the products with weights that the sets of a plan need.

    Places of a chunk that hold no set do not count, nor do attention and the unembedding.
    """
    d, heads = config.d_model, config.num_heads * config.head_dim
    keys = 2 * config.num_kv_heads * config.head_dim
    token = 2 * d * (heads + keys + heads + 3 * config.d_mlp)
    chunk = plan.cones.first.shape[1]
    at = plan.places.reshape(-1) // chunk
    real = np.bincount(at, minlength=len(plan.cones.prompt))
    total = 0.0
    for layer in range(1, config.num_layers):
        sets = float(real[: plan.cones.active[layer]].sum())
        last = layer == config.num_layers - 1
        total += sets * (
            plan.width * 2 * d * keys + token - 2 * d * keys if last else plan.width * token
        )
    return total


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "low": min(values), "high": max(values)}
