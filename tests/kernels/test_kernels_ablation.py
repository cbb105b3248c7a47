"""What a set's removal adds to the MLP outputs, and evaluating sets in chunks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from prune_helpers import random_writes, slow_write

from pie_jax.kernels import map_sets, removal_delta

LAYERS, LENGTH, WIDTH, COUNT = 4, 6, 5, 11
# Sums of a few products of float32 numbers around one.
TOLERANCE = 1e-5
TABLE, AT = random_writes(0, COUNT, layers=LAYERS, length=LENGTH, d_model=WIDTH)
DELTA = np.random.default_rng(1).standard_normal(COUNT).astype(np.float32)


@jax.jit
def remove(members: jax.Array) -> jax.Array:
    return removal_delta(jnp.asarray(TABLE), AT, jnp.asarray(DELTA), members, LAYERS, LENGTH)


def slow_removal(members: list[int]) -> np.ndarray:
    at = AT.take(jnp.asarray(members, jnp.int32))
    return slow_write(TABLE, at, -DELTA[members], LAYERS, LENGTH)


@pytest.mark.parametrize(
    "members", [[3, 0, 7, -1], [-1, -1, 5, 10], [0, -1, -1, -1], [-1, 2, -1, 0], [1, 2, 3, 4]]
)
def test_equals_the_loop_over_the_members(members: list[int]):
    """-1 is nobody, wherever it stands; it must not be read as the first or last one."""
    ours = remove(jnp.asarray(members, jnp.int32))
    real = [member for member in members if member >= 0]
    np.testing.assert_allclose(ours, slow_removal(real), atol=TOLERANCE)


def test_nobody_removed_changes_nothing():
    assert not remove(jnp.full(4, -1, jnp.int32)).any()


def test_removing_everything_is_minus_the_total():
    everything = remove(jnp.arange(COUNT, dtype=jnp.int32))
    total = slow_write(TABLE, AT, DELTA, LAYERS, LENGTH)
    np.testing.assert_allclose(everything, -total, atol=TOLERANCE)
    assert np.abs(total).max() > 1


SETS = jnp.asarray(np.random.default_rng(2).integers(-1, COUNT, (12, 3)), jnp.int32)


def summary(members: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    removed = remove(members)
    return removed.sum(), {"layers": jnp.abs(removed).sum((1, 2))}


@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 6, 12])
def test_chunks_change_nothing(chunk: int):
    """The order of the sets is kept, and so is any tree of results."""
    ours, rest = map_sets(summary, SETS, chunk)
    assert ours.shape == (12,)
    assert rest["layers"].shape == (12, LAYERS)
    for n, members in enumerate(SETS):
        alone, rest_alone = summary(members)
        np.testing.assert_allclose(ours[n], alone, atol=TOLERANCE)
        np.testing.assert_allclose(rest["layers"][n], rest_alone["layers"], atol=TOLERANCE)


@pytest.mark.parametrize("chunk", [5, 7, 24])
def test_chunks_that_do_not_divide_are_refused(chunk: int):
    with pytest.raises(ValueError, match=f"12 sets do not divide into chunks of {chunk}"):
        map_sets(summary, SETS, chunk)
