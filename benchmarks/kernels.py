"""The kernels beside the copy bandwidth and the matrix products of the same machine.

    python -m benchmarks.kernels --json benchmarks/results/kernels.json

Runs on whatever device JAX has. Pallas kernels are timed where they are compiled, on GPUs and
TPUs; interpreted ones are never timed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import NormalDist
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import typer
from jax import Array
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe
from benchmarks.timing import Timing, measure
from pie_jax.kernels import (
    Writes,
    active_union,
    by_feature,
    gradient_times_write,
    streamed_gradient_times_write,
)
from pie_jax.kernels.choice import bytes_moved, form
from pie_jax.transcoders.modules import Encoder

_HIGHEST = jax.lax.Precision.HIGHEST
_CAPACITY = 2048
Time = Callable[..., Timing]


@dataclass(frozen=True)
class Size:
    """A source layer: its features, target layers and model width, and the encoders to time."""

    features: int
    width: int
    d_model: int
    encoders: tuple[int, ...]
    batch: int = 8
    tokens: int = 18
    runs: int = 2
    l0: int = 48
    copy_mib: int = 256
    product: int = 2048


SIZES = {
    "small": Size(4096, 8, 512, encoders=(4096, 32768)),
    # A layer of Gemma-2-2B's cross-layer transcoders; 4 GiB in float32.
    "large": Size(16384, 26, 2304, encoders=(16384, 131072), copy_mib=2048, product=8192),
}


def main(
    size: str = "small",
    repeats: int = 9,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure, print tables, and write them as JSON."""
    sizes, time = SIZES[size], partial(measure, repeats=repeats)
    plain = _plain(sizes, time)
    figures = {
        "machine": describe(),
        "cores_used": _cores_used(),
        "size": {"name": size, **asdict(sizes)},
        "plain": plain,
        "attribution": list(_attribution(sizes, time, plain["copy_bytes_per_second"])),
        "encoder": list(_encoders(sizes, time)),
    }
    _print(figures)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _cores_used() -> int | None:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def _plain(sizes: Size, time: Time) -> dict[str, float]:
    """Return what the device does at best: bytes read and written, and products."""
    moved, passes = jnp.ones(sizes.copy_mib * 2**18, jnp.float32), 8
    # In place, as fresh memory costs a CPU more than the copy; the first pass fills the place.
    copy = time(lambda x: jax.lax.fori_loop(0, passes, lambda _, y: y + 1, x), moved)
    side, clock = sizes.product, _clock(copy)
    figures = {"copy_bytes_per_second": 2 * (passes + 1) * moved.nbytes / clock}
    for dtype in ("float32", "bfloat16"):
        a = jnp.ones((side, side), dtype)
        precision = _HIGHEST if dtype == "float32" else None
        product = partial(jnp.matmul, precision=precision, preferred_element_type=jnp.float32)
        figures[f"{dtype}_flops_per_second"] = 2 * side**3 / _clock(time(product, a, a))
    return figures


def _clock(timing: Timing) -> float:
    """Return the seconds that rates are of: those that cores worked on a CPU of one core."""
    alone = jax.default_backend() == "cpu" and _cores_used() == 1
    return timing.processor if alone else timing.median


# Attribution


def _attribution(sizes: Size, time: Time, copy: float) -> Iterator[dict[str, Any]]:
    key = jax.random.key(0)
    shape = (sizes.features, sizes.width, sizes.d_model)
    for dtype in ("float32", "bfloat16"):
        decoder = jax.random.normal(key, shape, jnp.dtype(dtype))
        for each in (0.25, 1, 4):
            count = int(each * sizes.features) // sizes.batch * sizes.batch
            yield from _one_attribution(sizes, time, copy, decoder, count)


def _one_attribution(
    sizes: Size, time: Time, copy: float, decoder: Array, count: int
) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(0)
    feature = jnp.asarray(rng.integers(0, sizes.features, count), jnp.int32)
    position = jnp.asarray(rng.integers(0, sizes.tokens, count), jnp.int32)
    shape = (sizes.batch, sizes.width, sizes.tokens, sizes.d_model)
    gradient = jax.random.normal(jax.random.key(1), shape)
    row_bytes = sizes.d_model * decoder.dtype.itemsize
    layer = ([count], sizes.features, [sizes.width], row_bytes)
    for name, function in _products(sizes).items():
        timing = time(function, decoder, feature, position, gradient)
        moved = bytes_moved("streamed" if "streamed" in name else "gathered", *layer)
        yield {
            "kernel": name,
            "dtype": str(decoder.dtype),
            "occurrences": count,
            "chosen": form(*layer),
            **timing.as_dict(),
            "row_bytes_moved": moved,
            "bytes_per_second": moved / _clock(timing),
            "share_of_copy": moved / _clock(timing) / copy,
        }


def _products(sizes: Size) -> dict[str, Callable[..., Array]]:
    functions: dict[str, Callable[..., Array]] = {
        "gathered": partial(_gathered, sizes),
        "streamed": partial(_by_feature, sizes, streamed_gradient_times_write),
    }
    platform = jax.default_backend()
    if platform in ("gpu", "tpu"):
        from pie_jax.kernels.pallas_attribution import pallas_gathered, pallas_streamed

        for name, kernel in (("gathered", pallas_gathered), ("streamed", pallas_streamed)):
            on_device = partial(kernel, platform=platform)
            functions[f"{name} (Pallas)"] = partial(_by_feature, sizes, on_device)
    return functions


def _gathered(
    sizes: Size, decoder: Array, feature: Array, position: Array, gradient: Array
) -> Array:
    table = decoder.reshape(-1, sizes.d_model)

    def one(feature: Array, position: Array, gradient: Array) -> Array:
        first = jnp.zeros_like(feature)
        writes = Writes(feature * sizes.width, first, first + sizes.width - 1, position)
        return gradient_times_write(table, writes, gradient)

    split = (array.reshape(sizes.batch, -1) for array in (feature, position))
    return jax.vmap(one)(*split, gradient)


def _by_feature(
    sizes: Size,
    kernel: Callable[..., Array],
    decoder: Array,
    feature: Array,
    position: Array,
    gradient: Array,
) -> Array:
    """Sorting is part of what is timed."""
    prompt = jnp.repeat(jnp.arange(sizes.batch), feature.shape[0] // sizes.batch)
    valid = jnp.ones(feature.shape, bool)
    at = by_feature(feature, prompt, position, valid, sizes.features)
    return kernel(decoder, at, gradient)


# Encoders


def _encoders(sizes: Size, time: Time) -> Iterator[dict[str, Any]]:
    shape = (sizes.batch, sizes.runs, sizes.tokens, sizes.d_model)
    runs = jax.random.normal(jax.random.key(2), shape)
    real = jnp.broadcast_to(jnp.arange(sizes.tokens) > 0, (sizes.batch, sizes.tokens))
    functions = {"product alone": _product, "dense": _dense, "blocks": _blocks}
    for features in sizes.encoders:
        scale = sizes.d_model**-0.5
        weight = jax.random.normal(jax.random.key(3), (features, sizes.d_model)) * scale
        # As many active features a token as asked for.
        bias = jnp.full(features, NormalDist().inv_cdf(sizes.l0 / features), jnp.float32)
        for dtype in ("float32", "bfloat16"):
            for name, function in functions.items():
                timing = time(function, weight.astype(dtype), bias, runs, real)
                yield {
                    "encoder": name,
                    "features": features,
                    "dtype": dtype,
                    **timing.as_dict(),
                }


def _product(weight: Array, bias: Array, runs: Array, real: Array) -> Array:
    return Encoder(weight, bias).preactivations(runs.reshape(-1, runs.shape[-1]))


def _dense(weight: Array, bias: Array, runs: Array, real: Array) -> tuple[Array, ...]:
    """The union from the whole [B, R, T, F]."""
    encoder = Encoder(weight, bias)

    def one(runs: Array, real: Array) -> tuple[Array, ...]:
        activation = jnp.where(real[:, None], jax.vmap(encoder)(runs), 0.0)
        active = (activation > 0).any(0).ravel()
        index = jnp.nonzero(active, size=_CAPACITY, fill_value=0)[0]
        values = activation.reshape(runs.shape[0], -1)[:, index]
        return *jnp.divmod(index, weight.shape[0]), values, active.sum()

    return jax.vmap(one)(runs, real)


def _blocks(weight: Array, bias: Array, runs: Array, real: Array) -> tuple[Array, ...]:
    one = partial(active_union, weight, bias, None, capacity=_CAPACITY)
    return jax.vmap(one)(runs, real)


# Tables


def _print(figures: dict[str, Any]) -> None:
    console, plain = Console(), figures["plain"]
    console.print(f"copy {plain['copy_bytes_per_second'] / 1e9:,.1f} GB/s", end=", ")
    for dtype in ("float32", "bfloat16"):
        console.print(f"{dtype} {plain[f'{dtype}_flops_per_second'] / 1e9:,.0f} GFLOP/s", end=" ")
    console.print()
    names = (
        "attribution",
        "dtype",
        "occurrences",
        "ms",
        "least-most",
        "cores' ms",
        "GB/s of rows",
        "of copy",
    )
    table = Table(*names)
    for row in figures["attribution"]:
        rate, share = row["bytes_per_second"] / 1e9, row["share_of_copy"]
        count = f"{row['occurrences']:,}"
        speed = (f"{rate:.2f}", f"{share:.0%}")
        table.add_row(row["kernel"], row["dtype"], count, *_milliseconds(row), *speed)
    console.print(table)
    table = Table("encoder", "features", "dtype", "ms", "least-most", "cores' ms", "temporary MiB")
    for row in figures["encoder"]:
        temporary = f"{row['temporary_mib']:,.1f}"
        features = f"{row['features']:,}"
        table.add_row(row["encoder"], features, row["dtype"], *_milliseconds(row), temporary)
    console.print(table)


def _milliseconds(row: dict[str, Any]) -> tuple[str, ...]:
    keys = ("median", "least", "most", "processor")
    median, least, most, processor = (1e3 * row[key] for key in keys)
    return f"{median:.1f}", f"{least:.1f}-{most:.1f}", f"{processor:.1f}"


if __name__ == "__main__":
    typer.run(main)
