"""Sizes of the arrays that a function makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core


def array_shapes(function: Callable[..., Any], *arguments: Any) -> list[tuple[int, ...]]:
    """Return the shape of every array that the function computes, inner functions included."""
    return list(_shapes(jax.make_jaxpr(function)(*arguments).jaxpr))


def _shapes(jaxpr: core.Jaxpr) -> Iterator[tuple[int, ...]]:
    for equation in jaxpr.eqns:
        yield from (variable.aval.shape for variable in equation.outvars)
        for value in jax.tree.leaves(
            equation.params, is_leaf=lambda x: isinstance(x, core.Jaxpr | core.ClosedJaxpr)
        ):
            if isinstance(value, core.ClosedJaxpr):
                yield from _shapes(value.jaxpr)
            elif isinstance(value, core.Jaxpr):
                yield from _shapes(value)
