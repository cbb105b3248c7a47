"""Times the peers on the weights that pruning was timed on: circuit-tracer and a PyTorch loop."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable
from importlib.util import find_spec
from statistics import median
from typing import Any

import jax

import pie_jax
from benchmarks.parts.prune_measure import Work
from benchmarks.peers.check import (
    BUDGET,
    Case,
    cases,
    check_loop,
    check_tracer,
    intervention,
    removable,
)
from pie_jax.errors import InputError
from pie_jax.prune.options import PruneOptions

_PROMPTS = 3
_SYNERGY = f"synergy, K = {BUDGET}"
_ATTRIBUTION = {"encode": 1.0, "decoder rows": 1.0, "gradients": 1.0, "score": 1.0}

Entries = dict[str, dict[str, Any]]


def require(work: Work) -> None:
    """Raise `InputError` where the peers cannot run, or not on equal terms."""
    for name in ("torch", "circuit_tracer"):
        if find_spec(name) is None:
            raise InputError(
                f"--peers needs {name}, which is not installed; pip install 'pie-jax[bench]'."
            )
    if work.dtype != "float32":
        raise InputError(f"--peers compares in float32, not {work.dtype}; add --dtype float32.")
    if BUDGET not in work.budgets:
        raise InputError(f"--peers compares at K = {BUDGET}; add it to --budgets.")
    if "fap-synergy" not in work.methods:
        raise InputError("--peers compares FAP-Synergy; add fap-synergy to --methods.")


def measure(work: Work, *, graph: bool = False) -> Entries:
    """Return by peer and part the seconds a unit, and what that compares with of ours.

    `ours` counts the peer's units in one prompt of a part of the fast run; `ours_seconds` stands
    there where the fast run has no such part.
    """
    require(work)
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    warm, *measured = cases(work, _PROMPTS + 1)
    loop, removals = _measure_loop(work, warm, measured)
    return loop | _measure_tracer(work, warm, measured, removals, graph)


def _measure_loop(work: Work, warm: Case, measured: list[Case]) -> tuple[Entries, float]:
    """Return the loop's times, and how many removals a prompt's synergy takes, in both."""
    from benchmarks.peers.loop import Loop, rows_by_layer, rows_one_by_one

    loop = Loop(work.folder)
    ways = {"row by row": rows_one_by_one, "gathered": rows_by_layer}
    check_loop(loop, warm, work.budgets)
    times: dict[str, list[float]] = defaultdict(list)
    forwards = []
    for case in measured:
        # The check has also warmed up.
        found = check_loop(loop, case, work.budgets)
        for name, way in ways.items():
            times[name].append(_seconds(loop.attribute, case.pair, way))
        before = loop.forwards
        more = (BUDGET, PruneOptions().synergy, case.ours.draws())
        times["synergy"].append(_seconds(loop.synergy, case.pair, found, *more))
        forwards.append(loop.forwards - before)
        times["removal"].append(times["synergy"][-1] / forwards[-1])
        times["kl"].append(_seconds(loop.kls, case.pair, found, work.budgets))
    behaviour = {"ends": 1.0, "behaviour": float(len(work.methods))}
    kls = f"KL of {len(work.budgets)} budgets"
    result = {
        f"loop: attribution and scoring, rows {name}": _entry(
            times[name], _ATTRIBUTION, "both prompts of a pair, each encoded twice"
        )
        for name in ways
    }
    result[f"loop: {_SYNERGY}"] = _entry(
        times["synergy"],
        {_SYNERGY: 1.0},
        f"{median(forwards):.0f} removals a prompt: neither runs a pair whose single effects are "
        "not both positive",
    )
    result["loop: one removal"] = _entry(
        times["removal"],
        {_SYNERGY: median(forwards)},
        "synergy by its removals",
    )
    result[f"loop: {kls}"] = _entry(
        times["kl"],
        behaviour,
        "of one method; ours also runs what is left without each circuit, and with nothing kept",
    )
    for name in ways:
        parts = zip(times[name], times["synergy"], times["kl"], strict=True)
        result[f"loop: the whole, rows {name}"] = _entry(
            [sum(part) for part in parts],
            _ATTRIBUTION | {_SYNERGY: 1.0} | behaviour,
            f"attribution and scoring, {_SYNERGY}, {kls}",
        )
    return result, median(forwards)


def _measure_tracer(
    work: Work, warm: Case, measured: list[Case], count: float, graph: bool
) -> Entries:
    from benchmarks.peers.circuit_tracer import CircuitTracer
    from benchmarks.peers.loop import Loop, rows_by_layer

    loop, tracer = Loop(work.folder), CircuitTracer(work.folder)
    loading = [_seconds(CircuitTracer, work.folder) for _ in measured]
    check_tracer(tracer, loop, warm, loop.attribute(warm.pair, rows_by_layer))
    components, removals = [], []
    for case in measured:
        found = loop.attribute(case.pair, rows_by_layer)
        check_tracer(tracer, loop, case, found)
        components.append(_seconds(tracer.components, case.pair))
        removals += [
            _seconds(tracer.removed, case.pair, *intervention(found, index))
            for index in removable(found)
        ]
    result = {
        "circuit-tracer: loading": _entry(
            loading,
            {},
            "model and encoders; decoders stay on disk in both",
            median(_seconds(_load, work) for _ in measured),
        ),
        "circuit-tracer: attribution components": _entry(
            components,
            _ATTRIBUTION,
            "of the clean prompt alone, without gradients or scores; ours is both prompts, scored",
        ),
        "circuit-tracer: one intervention": _entry(
            removals,
            {_SYNERGY: count},
            "one feature, nothing frozen, no activations returned; ours is one removal of synergy",
        ),
    }
    if graph:
        result["circuit-tracer: attribution graph"] = _entry(
            [_seconds(tracer.graph, measured[0].pair.clean)],
            _ATTRIBUTION,
            "1,000 feature nodes, one prompt once; it also holds features' effects on each other, "
            "where ours scores all of them against one metric",
        )
    return result


def _load(work: Work) -> None:
    model = pie_jax.load_model(work.folder / "model", work.dtype)
    transcoder = pie_jax.load_transcoder(
        work.folder / "transcoder", encoders_on_disk=work.encoders == "disk"
    )
    jax.block_until_ready((model.transformer, transcoder.resident))


def _entry(
    times: list[float], ours: dict[str, float], note: str, ours_seconds: float | None = None
) -> dict[str, Any]:
    entry = {"median": median(times), "low": min(times), "high": max(times)}
    more = {} if ours_seconds is None else {"ours_seconds": ours_seconds}
    return {**entry, "ours": ours, **more, "note": note}


def _seconds(run: Callable[..., object], *given: Any) -> float:
    start = time.perf_counter()
    run(*given)
    return time.perf_counter() - start
