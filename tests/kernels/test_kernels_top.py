"""TopK features without a dense array, against NumPy's stable sort; ties go to the first."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_kernels_encode import array_shapes

from pie_jax.kernels import top_activations, top_union
from pie_jax.transcoders.config import TopK
from pie_jax.transcoders.modules import Encoder

R, T, D = 2, 5, 3


def whole(seed: int, *shape: int) -> np.ndarray:
    """Return small whole numbers, of which many are equal: products are exact."""
    return np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float32)


def dense_top(weight, bias, runs, k: int, relu: bool) -> np.ndarray:
    """Return the dense activations [R, T, F]: those of the k largest, one position at a time."""
    pre = runs @ weight.T + bias
    pre = np.maximum(pre, 0) if relu else pre
    out = np.zeros_like(pre)
    for r, t in np.ndindex(pre.shape[:2]):
        best = np.argsort(-pre[r, t], kind="stable")[:k]
        out[r, t, best] = pre[r, t, best]
    return out


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(
    ("features", "block", "k"), [(23, 8, 4), (16, 8, 1), (7, 64, 7), (40, 3, 9)]
)
def test_equal_to_the_dense_form(features: int, block: int, k: int, relu: bool):
    weight, bias = whole(0, features, D), whole(1, features)
    runs, real = whole(2, R, T, D), np.array([False, True, True, True, False])
    dense = dense_top(weight, bias, runs, k, relu)
    call = jax.jit(top_union, static_argnums=(4, 5, 6, 7))
    found = call(weight, bias, runs, jnp.asarray(real), 200, k, relu, block)
    position, feature = np.nonzero((dense != 0).any(0) & real[:, None])
    count = int(found.count)
    assert count == len(position) > 0
    np.testing.assert_array_equal(found.position[:count], position)
    np.testing.assert_array_equal(found.feature[:count], feature)
    np.testing.assert_array_equal(found.activation[:, :count], dense[:, position, feature])
    for array in (found.position, found.feature, found.activation.T):
        assert not np.asarray(array)[count:].any()
    encoder = Encoder(jnp.asarray(weight), jnp.asarray(bias), None, TopK(k, relu))
    np.testing.assert_array_equal(encoder(jnp.asarray(runs[0])), dense[0])
    some = jnp.asarray([3, 0, 3, features - 1])
    np.testing.assert_array_equal(encoder.some(jnp.asarray(runs[1]), some), dense[1][:, some])


def test_overflow_is_counted_and_prompts_are_vmapped():
    weight, bias, runs = whole(0, 20, D), whole(1, 20), whole(2, 4, R, T, D)
    real = jnp.arange(T) < jnp.asarray([5, 1, 3, 0])[:, None]
    arrays = jnp.asarray(weight), jnp.asarray(bias)
    one = jax.vmap(lambda x, r: top_union(*arrays, x, r, 9, 4, True, 8))
    found = jax.jit(one)(jnp.asarray(runs), real)
    for b in range(4):
        dense = dense_top(weight, bias, runs[b], 4, True)
        active = (dense != 0).any(0) & np.asarray(real[b])[:, None]
        assert int(found.count[b]) == active.sum()
        position, feature = (index[:9] for index in np.nonzero(active))
        np.testing.assert_array_equal(found.feature[b][: len(feature)], feature)
        np.testing.assert_array_equal(found.position[b][: len(feature)], position)
    assert int(found.count.max()) > 9


def test_no_dense_array_is_made():
    weight, bias = whole(0, 4096, D), whole(1, 4096)
    runs, real = jnp.asarray(whole(2, R, T, D)), jnp.ones(T, bool)
    ours = array_shapes(lambda *args: top_union(*args, 64, 8, True, 128), weight, bias, runs, real)
    assert max(map(np.prod, ours)) <= max(R * T * (128 + 8), 4096 * D)


@pytest.mark.parametrize("k", [0, 6])
def test_more_than_there_are_is_refused(k: int):
    with pytest.raises(ValueError, match="k "):
        top_activations(
            *map(jnp.asarray, (whole(0, 5, D), whole(1, 5), whole(2, R, T, D))), k, True
        )
