"""Seconds until an answer, for prompts of many lengths one at a time in one process.

    python -m benchmarks.latency --json benchmarks/results/latency.json
    python -m benchmarks.latency --methods auto --programs   # every program that was compiled

Every method runs in a process of its own with an empty compile cache (cold), then in a second one
that finds the first one's programs in the cache (warm).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

METHODS = ("fap", "auto")
BUDGETS = (10, 20, 40)
# What jax reports of each program: found in a cache or not, and how long each step took.
_TRACED = "/jax/core/compile/jaxpr_trace_duration"
_LOWERED = "/jax/core/compile/jaxpr_to_mlir_module_duration"
_COMPILED = "/jax/core/compile/backend_compile_duration"


@dataclass(frozen=True)
class Answer:
    """One prompt: its tokens, the seconds until its result, what of them was tracing, lowering and
    compiling, and how many programs were new."""

    tokens: int
    seconds: float
    compiling: float
    programs: int


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every method in fresh processes; print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Raw)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--shortest", type=int, default=9, help="tokens, BOS included")
    parser.add_argument("--longest", type=int, default=64)
    parser.add_argument("--mixed", action="store_true", help="other windows too")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--programs", action="store_true", help="list every compiled program")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(_measure(options.one, options)))
        return
    results: dict[str, Any] = {"machine": _machine(), "budgets": BUDGETS, "methods": {}}
    for method in options.methods.split(","):
        with tempfile.TemporaryDirectory() as cache:
            runs = {name: _process(method, options, cache) for name in ("cold", "warm")}
        results["methods"][method] = runs
        for name, run in runs.items():
            _print(method, name, run, options)
        if options.json:
            options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


class _Raw(argparse.RawDescriptionHelpFormatter):
    pass


def _process(method: str, options: argparse.Namespace, cache: str) -> dict[str, Any]:
    """Measure one method in a new process that keeps its programs in `cache`."""
    import os

    sizes = [f"--{name}={getattr(options, name)}" for name in ("prompts", "shortest", "longest")]
    sizes += ["--mixed"] if options.mixed else []
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.latency", "--one", method, *sizes],
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": cache},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return {**json.loads(done.stdout), "process_seconds": time.perf_counter() - start}


def _measure(method: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run every prompt by itself, in an order that mixes short and long ones."""
    start = time.perf_counter()
    import pie_jax
    from pie_jax.terminal import use_compile_cache

    use_compile_cache()
    model, clt = pie_jax.load_model(), pie_jax.load_transcoder()
    pairs = pairs_of_lengths(model, _lengths(options), options.mixed)
    loaded = time.perf_counter() - start
    answers, programs = [], []
    for tokens, pair in pairs:
        with counting() as found:
            begin = time.perf_counter()
            pie_jax.prune(model, clt, [pair], methods=(method,), budgets=BUDGETS)
            seconds = time.perf_counter() - begin
        compiling = sum(seconds for _, _, seconds in found)
        names = [name for kind, name, _ in found if kind == _COMPILED]
        answers.append(Answer(tokens, seconds, compiling, len(names)))
        programs += [
            {"tokens": tokens, "name": name, "step": kind.split("/")[-1], "seconds": seconds}
            for kind, name, seconds in found
        ]
    return {
        "load_seconds": loaded,
        "answers": [asdict(answer) for answer in answers],
        "programs": programs,
    }


def _lengths(options: argparse.Namespace) -> list[int]:
    """Return the lengths, evenly spaced, in a fixed order that mixes short and long ones."""
    span = options.longest - options.shortest
    count = options.prompts
    even = [options.shortest + round(i * span / max(count - 1, 1)) for i in range(count)]
    stride = next(n for n in range(count * 2 // 5, count * 2) if _coprime(n, count))
    return [even[i * stride % count] for i in range(count)]


def _coprime(a: int, b: int) -> bool:
    while b:
        a, b = b, a % b
    return a == 1


def pairs_of_lengths(
    model: Any, lengths: Sequence[int], mixed: bool = False
) -> list[tuple[int, Any]]:
    """Return an IOI pair of each length in tokens: other sentences in front, cut from the left.

    With `mixed`, every third pair differs from its first names on instead of the second subject.
    """
    from pie_jax.tasks import Pair, get_task

    task = get_task("ioi")
    tokenizer = model.tokenizer
    found = []
    for index, length in enumerate(lengths):
        kind = "abc" if mixed and index % 3 == 2 else "s2-random"
        many = task.generate(8, seed=index, tokenizer=tokenizer, corruption=kind, split="heldout")
        filler = " ".join(pair.clean + pair.target + "." for pair in many[1:])
        pair = min(many, key=lambda pair: len(tokenizer.encode(pair.clean)))
        texts = [_cut(tokenizer, filler, text, length) for text in (pair.clean, *pair.corrupted)]
        found.append((length, Pair(texts[0], tuple(texts[1:]), pair.target, pair.distractor)))
    return found


def _cut(tokenizer: Any, filler: str, text: str, length: int) -> str:
    """Return the last `length` tokens of filler and text, BOS included, as text."""
    words = (filler + " " + text).split(" ")
    for first in range(len(words)):
        cut = " ".join(words[first:])
        if len(tokenizer.encode(cut)) <= length:
            break
    missing = length - len(tokenizer.encode(cut))
    return "the " * missing + cut


@contextmanager
def counting() -> Iterator[list[tuple[str, str, float]]]:
    """Collect (step, program, seconds) of every tracing, lowering and compiling meanwhile."""
    import jax

    found: list[tuple[str, str, float]] = []

    def listen(event: str, duration: float, **rest: Any) -> None:
        if event in (_TRACED, _LOWERED, _COMPILED):
            found.append((event, str(rest.get("fun_name", "")), duration))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def _print(method: str, name: str, run: dict[str, Any], options: argparse.Namespace) -> None:
    answers = run["answers"]
    rest = answers[1:]
    late = [answer for answer in rest if answer["programs"]]
    print(
        f"{method}, {name}: loaded in {run['load_seconds']:.1f} s, first answer "
        f"{answers[0]['seconds']:.2f} s, median of the others "
        f"{median(answer['seconds'] for answer in rest):.3f} s; compiling "
        f"{sum(answer['compiling'] for answer in answers):.1f} s in all, "
        f"{sum(answer['programs'] for answer in answers)} programs; "
        f"{len(late)} of {len(rest)} later prompts brought a new program"
    )
    if options.programs:
        for answer in answers:
            print("   ", answer)
        for program in sorted(run["programs"], key=lambda one: -one["seconds"])[:60]:
            print(f"    {program['seconds']:.3f} s {program['step']} {program['name']}")


def _machine() -> dict[str, Any]:
    from benchmarks.parts.machine import describe

    return describe()


if __name__ == "__main__":
    main()
