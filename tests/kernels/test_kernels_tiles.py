"""Both products tile by tile equal the gathered ones."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from prune_helpers import tiny_model, tiny_transcoder

from pie_jax.kernels import (
    gradient_times_write,
    tiled_gradient_times_write,
    tiled_write,
    write,
)
from pie_jax.prune.batch.occurrences import DecoderTable, Occurrences, read_rows

LENGTH = 7
# Sums of some hundred float32 products around one.
TOLERANCE = 1e-5


def drawn(
    folder: Path, dtype: str, cross_layer: bool, count: int = 600
) -> tuple[DecoderTable, int]:
    """Return the rows of many distinct occurrences of one prompt, more than a tile's a layer."""
    kind = jnp.dtype(dtype)
    transcoder = tiny_transcoder(tiny_model(folder), 200, cross_layer=cross_layer, dtype=kind)
    config = transcoder.config
    rng = np.random.default_rng(0)
    places = np.sort(rng.choice(config.num_layers * LENGTH * 200, count, replace=False))
    layer, rest = np.divmod(places, LENGTH * 200)
    position, feature = np.divmod(rest, 200)
    row = [np.pad(x.astype(np.int32), (0, 40))[None] for x in (layer, position, feature)]
    active = np.ones(row[0].shape, np.float32)
    found = Occurrences(*row, active, active[:, None], np.array([count], np.int32))
    return read_rows(transcoder, found), config.num_layers


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("cross_layer", [True, False])
@pytest.mark.parametrize(("shift", "side_by_side"), [(0, None), (3, None), (3, 8)])
def test_tiles_equal_the_gathered_products(
    tmp_path: Path, cross_layer: bool, dtype: str, shift: int, side_by_side: int | None
):
    """With positions before the window as well, where nothing is written or scored; block by block,
    and several side by side as on accelerators."""
    decoder, layers = drawn(tmp_path, dtype, cross_layer)
    assert int(decoder.tiles.width.sum()) > layers
    at = jax.tree.map(lambda x: x[0], decoder.writes)
    at = at._replace(position=at.position - shift)
    length = LENGTH - shift
    rng = np.random.default_rng(1)
    weight = jnp.asarray(rng.standard_normal(at.start.shape), jnp.float32).at[600:].set(0.0)
    gradient = jnp.asarray(rng.standard_normal((layers, length, 16)), jnp.float32)
    inside = np.asarray(at.position) >= 0
    table = (decoder.table, decoder.tiles)
    ours = np.asarray(tiled_gradient_times_write(*table, at, gradient, side_by_side))
    theirs = np.asarray(gradient_times_write(decoder.table, at, gradient))
    np.testing.assert_allclose(ours[inside], theirs[inside], atol=TOLERANCE)
    assert not ours[~inside].any()
    written = tiled_write(*table, at, weight, layers, length, side_by_side)
    expected = write(decoder.table, at, weight, layers, length)
    np.testing.assert_allclose(written, expected, atol=10 * TOLERANCE)
    assert np.abs(expected).max() > 1


def test_prompts_share_the_table(tmp_path: Path):
    """Under vmap the table is not batched: the same as one prompt after the other."""
    decoder, layers = drawn(tmp_path, "float32", True)
    two = jax.tree.map(lambda x: jnp.concatenate([x, x[:, ::-1]]), decoder.writes)
    gradient = jnp.asarray(np.random.default_rng(2).standard_normal((2, layers, LENGTH, 16)))
    gradient = gradient.astype(jnp.float32)

    def one(writes, gradient):
        return tiled_gradient_times_write(decoder.table, decoder.tiles, writes, gradient)

    together = jax.vmap(one)(two, gradient)
    for b in range(2):
        alone = one(jax.tree.map(lambda x, b=b: x[b], two), gradient[b])
        np.testing.assert_allclose(together[b], alone, atol=TOLERANCE)
    assert int(decoder.tiles.width.sum()) > 1
