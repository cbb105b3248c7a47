"""Arrays of the host that become a device's."""

from __future__ import annotations

import jax
import ml_dtypes
import numpy as np
import pytest

from pie_jax.devices.placement import host_zeros, place_weight


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("shape", [(7,), (33, 128, 5), (3000, 129)])
def test_a_cpu_takes_the_zeros_of_the_host_without_a_copy(dtype: type, shape: tuple[int, ...]):
    host = host_zeros(shape, dtype)
    assert (host.shape, host.dtype) == (shape, np.dtype(dtype))
    assert not host.any()
    host[...] = np.arange(host.size).reshape(shape) % 7
    expected = host.copy()
    flat = host.reshape(shape[0], -1)
    placed = place_weight(None, "decoder.table", flat.shape, lambda index: flat[index])
    if jax.default_backend() == "cpu":
        assert placed.unsafe_buffer_pointer() == host.ctypes.data
    # What the device holds keeps the host's array alive.
    del host, flat
    np.testing.assert_array_equal(np.asarray(placed).reshape(shape), expected)
