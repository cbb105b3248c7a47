"""The tiled products under `grad`: each is linear, and its transpose is exact."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from prune_helpers import prepare, tiny_model, tiny_pairs, tiny_transcoder

from pie_jax.kernels import (
    gradient_times_write,
    tiled_gradient_times_write,
    tiled_write,
    write,
)
from pie_jax.prune.batch.problem import Problem
from pie_jax.prune.options import PruneOptions

# Sums in another order; the sine of a sum of a hundred passes its rounding on.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    model = tiny_model(tmp_path_factory.mktemp("model"))
    options = PruneOptions(methods=("fap",), budgets=(5,))
    return prepare(model, tiny_transcoder(model), tiny_pairs([9, 12]), options).problem


def of_prompt(problem: Problem, index: int):
    return jax.tree.map(lambda x: x[index], problem.writes)


def drawn(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).standard_normal(shape), jnp.float32)


def test_the_tiled_product_by_the_gradient(problem: Problem):
    gradient = drawn(2, *problem.sizes, problem.model.config.d_model)

    def loss(product, gradient):
        return jnp.sin(product(gradient)).sum()

    def tiled(gradient, writes):
        return tiled_gradient_times_write(problem.table, problem.tiles, writes, gradient)

    def gathered(gradient, writes):
        inside = (writes.position >= 0) & (writes.position < gradient.shape[1])
        at = writes._replace(position=jnp.where(inside, writes.position, 0))
        return jnp.where(inside, gradient_times_write(problem.table, at, gradient), 0.0)

    def of(product):
        def one(gradient, writes):
            return jax.grad(lambda g: loss(lambda g: product(g, writes), g))(gradient)

        return jax.jit(jax.vmap(one))(gradient, problem.writes)

    expected = of(gathered)
    assert abs(expected).max() > 0.1
    np.testing.assert_allclose(of(tiled), expected, **CLOSE)


def test_the_tiled_write_by_the_weights(problem: Problem):
    writes = of_prompt(problem, 0)
    weight = drawn(len(writes.start))

    def loss(written):
        return lambda weight: jnp.sin(written(weight)).sum()

    def tiled(weight):
        return tiled_write(problem.table, problem.tiles, writes, weight, *problem.sizes)

    def gathered(weight):
        return write(problem.table, writes, weight, *problem.sizes)

    expected = jax.grad(loss(gathered))(weight)
    assert abs(expected).max() > 0.1
    np.testing.assert_allclose(jax.jit(jax.grad(loss(tiled)))(weight), expected, **CLOSE)


def test_the_table_is_refused(problem: Problem):
    writes = of_prompt(problem, 0)
    gradient = drawn(*problem.sizes, problem.model.config.d_model)

    def loss(table):
        return tiled_gradient_times_write(table, problem.tiles, writes, gradient).sum()

    with pytest.raises(NotImplementedError, match="gradient_times_write"):
        jax.grad(loss)(problem.table)
