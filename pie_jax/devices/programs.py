"""Compiled programs: how they are compiled, and how many of them a process keeps."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, cached_property, update_wrapper
from pathlib import Path
from typing import Any

import jax

# XLA's older loop emitters and the first level of LLVM's optimisation: programs for CPUs compile in
# 40% of the time. With small arguments they run as fast, as the work is in matrix products, which
# are libraries' own; with those of larger models gradients and circuits take 10 to 20% longer.
_CPU_OPTIONS: dict[str, Any] = {
    "xla_cpu_use_fusion_emitters": False,
    "xla_backend_optimization_level": 1,
}
_SMALL_BYTES = 64 << 20
# Trying out Triton's kernels for each matrix product took most of compiling on an H100: a first
# prompt of the demo 21 s, without it 6 s, and nothing of pruning ran slower.
_GPU_OPTIONS: dict[str, Any] = {"xla_gpu_enable_triton_gemm": False}

# Linux counts the mappings of a process, of which every compiled program for a CPU has several;
# beyond the most that it grants, compiling ends in a crash.
_MAPPINGS = Path("/proc/self/maps")
_MOST_MAPPINGS = Path("/proc/sys/vm/max_map_count")
SHARE = 0.6


class Program:
    """A function that is compiled for each new shape of its arguments, quickly.

    It is what `jax.jit` makes of it, compiled with `compiler_options`. Called while another program
    is traced, it becomes a part of that one.
    """

    def __init__(self, function: Callable[..., Any], static: str | tuple[str, ...] = ()):
        self._function, self._static = function, static
        self._inlined = jax.jit(function, static_argnames=static)
        self._coming: list[Future[None]] = []
        update_wrapper(self, function)

    @cached_property
    def _small(self) -> Any:
        return self._jitted(compiler_options(small=True))

    @cached_property
    def _large(self) -> Any:
        return self._jitted(compiler_options(small=False))

    def _jitted(self, options: dict[str, Any]) -> Any:
        return jax.jit(self._function, static_argnames=self._static, compiler_options=options)

    def _for(self, args: Any, kwargs: Any) -> Any:
        """Return what compiles for such arguments; a part of a program that is being traced is
        compiled as that one is."""
        leaves = jax.tree.leaves((args, kwargs))
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            return self._inlined
        return self._small if sum(map(_bytes, leaves)) <= _SMALL_BYTES else self._large

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        while self._coming:
            self._coming.pop().result()
        return self._for(args, kwargs)(*args, **kwargs)

    def ahead(self, *args: Any, **kwargs: Any) -> None:
        """Compile for such arguments, or their shapes, in a thread; the next call waits for it."""
        device = jax.config.jax_default_device  # type: ignore[attr-defined]

        def work() -> None:
            # jax keeps it for each thread apart.
            with jax.default_device(device):
                self.lower(*args, **kwargs).compile()

        self._coming.append(_pool().submit(work))

    def trace(self, *args: Any, **kwargs: Any) -> Any:
        """Return the traced program, as `jax.jit` does."""
        return self._for(args, kwargs).trace(*args, **kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        """Return the lowered program, as `jax.jit` does."""
        return self._for(args, kwargs).lower(*args, **kwargs)

    def count(self) -> int:
        """Return for how many shapes of arguments it is compiled at present."""
        return self._small._cache_size() + self._large._cache_size()


def program(*static: str) -> Callable[[Callable[..., Any]], Program]:
    """Return a decorator that makes a function a `Program`; `static` arguments are no arrays."""
    return lambda function: Program(function, static)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "compile")


def _bytes(leaf: Any) -> int:
    size, dtype = getattr(leaf, "size", 0), getattr(leaf, "dtype", None)
    return 0 if dtype is None else size * dtype.itemsize


@cache
def compiler_options(*, small: bool) -> dict[str, Any]:
    """Return the options that programs of small or large arguments are compiled with: those above
    for the device at hand that this XLA knows, but for what XLA_FLAGS sets itself."""
    given = os.environ.get("XLA_FLAGS", "")
    cpu = _CPU_OPTIONS if small else {}
    options = {"cpu": cpu, "gpu": _GPU_OPTIONS}.get(jax.default_backend(), {})
    wanted = {name: value for name, value in options.items() if name not in given}
    return {name: value for name, value in wanted.items() if _is_known(name, value)}


def _is_known(option: str, value: Any) -> bool:
    try:
        jax.jit(lambda x: x + 1).lower(1).compile(compiler_options={option: value})
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" not in str(error):
            raise
        return False
    return True


def make_room() -> None:
    """Drop compiled programs when they take most of the mappings that the process may have.

    Those that are still needed are compiled again, or read from the compile cache.
    """
    if not _MAPPINGS.exists():
        return
    with _MAPPINGS.open("rb") as file:
        mappings = sum(1 for _ in file)
    if mappings > SHARE * int(_MOST_MAPPINGS.read_text()):
        jax.clear_caches()
