"""The kernels beside the copy bandwidth and the matrix products of the same machine.

    python -m benchmarks.kernels --json benchmarks/results/kernels.json

Runs on whatever device JAX has. Pallas kernels are timed where they are compiled, on GPUs and
TPUs; interpreted ones are never timed. The JSON is written after every case; one that fails is
written with its error, and makes the exit code 1.
"""

from __future__ import annotations

import os
import sys
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

from benchmarks.parts.limits import copy_bytes
from benchmarks.parts.machine import describe, write_json
from benchmarks.parts.timing import Timing, measure
from benchmarks.peers.streamed.choice import bytes_moved, form
from benchmarks.peers.streamed.scan import by_feature, streamed_gradient_times_write
from pie_jax.kernels import (
    TILE,
    Tiles,
    Writes,
    active_union,
    gradient_times_write,
    tiled_gradient_times_write,
)
from pie_jax.transcoders.modules import Encoder

_HIGHEST = jax.lax.Precision.HIGHEST
_CAPACITY = 2048
# Scores that are compared with float64, and what they may be off: float32 sums, relative.
_COMPARED = 256
_TOLERANCE = 1e-3
Time = Callable[..., tuple[Timing, Any]]
Row = dict[str, Any]
# Decoder, features, positions and gradient; a product with how it gets its arguments from them.
Drawn = tuple[Array, Array, Array, Array]
Product = tuple[Callable[..., Array], Callable[..., tuple[Any, ...]]]


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
    "tiny": Size(300, 3, 64, encoders=(256,), copy_mib=4, product=128),
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
    figures: dict[str, Any] = {
        "machine": describe(),
        "cores_used": _cores_used(),
        "size": {"name": size, **asdict(sizes)},
        "plain": plain,
        "attribution": [],
        "encoder": [],
        "status": "running",
    }
    parts = {
        "attribution": _attribution(sizes, time, plain["copy_bytes_per_second"]),
        "encoder": _encoders(sizes, time),
    }
    for name, rows in parts.items():
        for row in rows:
            figures[name].append(row)
            if json_file is not None:
                write_json(json_file, figures)
    figures["status"] = "complete"
    _print(figures)
    if json_file is not None:
        write_json(json_file, figures)
    if failed := [row for name in parts for row in figures[name] if "error" in row]:
        print(f"error: {len(failed)} cases failed, the first with: {failed[0]['error']}")
        raise typer.Exit(1)


def _case(what: Row, run: Callable[[], Row]) -> Row:
    """Return a case's figures, or what went wrong: one case does not cost the others."""
    try:
        return {**what, **run()}
    except Exception as error:  # reported in the row, and by the exit code
        print(f"{what}: {type(error).__name__}: {error}", file=sys.stderr)
        return {**what, "error": f"{type(error).__name__}: {error}".splitlines()[0]}


def _cores_used() -> int | None:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def _plain(sizes: Size, time: Time) -> dict[str, float]:
    """Return what the device does at best: bytes read and written, and products."""
    figures = {"copy_bytes_per_second": _copy(sizes, time)}
    side = sizes.product
    for dtype in ("float32", "bfloat16"):
        # Random numbers: GPUs multiply ones and zeros faster.
        a = jax.random.normal(jax.random.key(0), (side, side), dtype)
        precision = _HIGHEST if dtype == "float32" else None
        product = partial(jnp.matmul, precision=precision, preferred_element_type=jnp.float32)
        figures[f"{dtype}_flops_per_second"] = 2 * side**3 / _clock(time(product, a, a)[0])
    return figures


def _copy(sizes: Size, time: Time) -> float:
    if jax.default_backend() != "cpu":
        return copy_bytes()
    moved, passes = jnp.ones(sizes.copy_mib * 2**18, jnp.float32), 8
    # In place, as fresh memory costs a CPU more than the copy; the first pass fills the place.
    copy, _ = time(lambda x: jax.lax.fori_loop(0, passes, lambda _, y: y + 1, x), moved)
    return 2 * (passes + 1) * moved.nbytes / _clock(copy)


def _clock(timing: Timing) -> float:
    """Return the seconds that rates are of: those that cores worked on a CPU of one core."""
    alone = jax.default_backend() == "cpu" and _cores_used() == 1
    return timing.processor if alone else timing.median


# Attribution


def _attribution(sizes: Size, time: Time, copy: float) -> Iterator[Row]:
    key = jax.random.key(0)
    shape = (sizes.features, sizes.width, sizes.d_model)
    for dtype in ("bfloat16", "float32"):
        decoder = jax.random.normal(key, shape, jnp.dtype(dtype))
        for each in (0.25, 1, 4):
            count = int(each * sizes.features) // sizes.batch * sizes.batch
            yield from _one_attribution(sizes, time, copy, decoder, count)


def _one_attribution(
    sizes: Size, time: Time, copy: float, decoder: Array, count: int
) -> Iterator[Row]:
    rng = np.random.default_rng(0)
    feature = jnp.asarray(rng.integers(0, sizes.features, count), jnp.int32)
    position = jnp.asarray(rng.integers(0, sizes.tokens, count), jnp.int32)
    shape = (sizes.batch, sizes.width, sizes.tokens, sizes.d_model)
    gradient = jax.random.normal(jax.random.key(1), shape)
    drawn = (decoder, feature, position, gradient)
    row_bytes = sizes.d_model * decoder.dtype.itemsize
    layer = ([count], sizes.features, [sizes.width], row_bytes)
    distinct = ([len(np.unique(feature))], *layer[1:])
    moved = {
        "gathered": bytes_moved("gathered", *layer),
        "tiled": bytes_moved("gathered", *distinct),
        "streamed": bytes_moved("streamed", *layer),
    }
    for name, product in _products(sizes).items():
        what = {
            "kernel": name,
            "dtype": str(decoder.dtype),
            "occurrences": count,
            "chosen": form(*layer),
        }
        read = moved[name.partition(" ")[0]]
        yield _case(what, partial(_one_product, sizes, time, copy, product, drawn, read))


def _one_product(
    sizes: Size, time: Time, copy: float, product: Product, drawn: Drawn, moved: int
) -> Row:
    function, arguments = product
    timing, scores = time(function, *arguments(*drawn))
    return {
        **timing.as_dict(),
        "row_bytes_moved": moved,
        "bytes_per_second": moved / _clock(timing),
        "share_of_copy": moved / _clock(timing) / copy,
        "relative_error": _error(sizes, drawn, scores),
    }


def _error(sizes: Size, drawn: Drawn, scores: Array) -> float:
    """Return how far some scores are off float64; ValueError where that is more than rounding."""
    decoder, feature, position, gradient = drawn
    count = feature.shape[0]
    some = np.linspace(0, count - 1, min(count, _COMPARED)).astype(int)
    rows = np.asarray(decoder[feature[some]], np.float64)
    prompt = some // (count // sizes.batch)
    at = np.asarray(gradient[prompt, :, position[some]], np.float64)
    expected = (rows * at).sum((1, 2))
    error = np.linalg.norm(np.asarray(scores).ravel()[some] - expected) / np.linalg.norm(expected)
    if not error < _TOLERANCE:
        raise ValueError(f"scores are off by {error:.1e} of what they should be")
    return float(error)


def _products(sizes: Size) -> dict[str, Product]:
    def as_drawn(*drawn: Array) -> tuple[Array, ...]:
        return drawn

    products: dict[str, Product] = {
        "gathered": (partial(_gathered, sizes), as_drawn),
        "tiled": (_tiled, partial(_in_tiles, sizes)),
        "streamed": (partial(_by_feature, sizes, streamed_gradient_times_write), as_drawn),
    }
    platform = jax.default_backend()
    if platform in ("gpu", "tpu"):
        from benchmarks.peers.streamed.pallas import pallas_gathered, pallas_streamed

        for name, kernel in (("gathered", pallas_gathered), ("streamed", pallas_streamed)):
            on_device = partial(kernel, platform=platform)
            products[f"{name} (Pallas)"] = (partial(_by_feature, sizes, on_device), as_drawn)
    return products


def _tiled(table: Array, tiles: Tiles, writes: Writes, gradient: Array) -> Array:
    return jax.vmap(tiled_gradient_times_write, (None, None, 0, 0))(table, tiles, writes, gradient)


def _in_tiles(
    sizes: Size, decoder: Array, feature: Array, position: Array, gradient: Array
) -> tuple[Array, Tiles, Writes, Array]:
    """Lay the rows of the features that occur in tiles, as pruning does when it reads them; that is
    not part of what is timed."""
    used, rank = np.unique(np.asarray(feature), return_inverse=True)
    blocks, width = -(-len(used) // TILE), sizes.width
    padded = np.zeros(blocks * TILE, np.int32)
    padded[: len(used)] = used
    rows = decoder[padded].reshape(blocks, TILE, width, sizes.d_model)
    table = rows.swapaxes(1, 2).reshape(-1, sizes.d_model)
    # Groups of blocks have to divide them: the rest is padding of no width.
    pad = (0, -blocks % 32)
    numbers = (
        np.tile(np.arange(width), blocks),
        np.repeat(np.arange(blocks), width),
        np.pad(np.arange(blocks) * width, pad),
        np.pad(np.full(blocks, width), pad),
    )
    block, row = np.divmod(rank, TILE)
    start = jnp.asarray(block * width * TILE + row, jnp.int32)
    first = jnp.zeros_like(start)
    stride = jnp.full_like(start, TILE)
    writes = Writes(start, first, first + width - 1, position, stride)
    split = jax.tree.map(lambda array: array.reshape(sizes.batch, -1), writes)
    return table, Tiles(*(jnp.asarray(array, jnp.int32) for array in numbers)), split, gradient


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


def _encoders(sizes: Size, time: Time) -> Iterator[Row]:
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
                what = {"encoder": name, "features": features, "dtype": dtype}
                arguments = (weight.astype(dtype), bias, runs, real)
                yield _case(what, partial(_timed, time, function, arguments))


def _timed(time: Time, function: Callable[..., Any], arguments: tuple[Array, ...]) -> Row:
    return time(function, *arguments)[0].as_dict()


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
    for row in _measured(figures["attribution"]):
        rate, share = row["bytes_per_second"] / 1e9, row["share_of_copy"]
        count = f"{row['occurrences']:,}"
        speed = (f"{rate:.2f}", f"{share:.0%}")
        table.add_row(row["kernel"], row["dtype"], count, *_milliseconds(row), *speed)
    console.print(table)
    table = Table("encoder", "features", "dtype", "ms", "least-most", "cores' ms", "temporary MiB")
    for row in _measured(figures["encoder"]):
        temporary = f"{row['temporary_mib']:,.1f}"
        features = f"{row['features']:,}"
        table.add_row(row["encoder"], features, row["dtype"], *_milliseconds(row), temporary)
    console.print(table)


def _measured(rows: list[Row]) -> list[Row]:
    return [row for row in rows if "error" not in row]


def _milliseconds(row: dict[str, Any]) -> tuple[str, ...]:
    keys = ("median", "least", "most", "processor")
    median, least, most, processor = (1e3 * row[key] for key in keys)
    return f"{median:.1f}", f"{least:.1f}-{most:.1f}", f"{processor:.1f}"


if __name__ == "__main__":
    typer.run(main)
