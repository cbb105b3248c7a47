"""What the custom derivatives of the linear products share."""

from __future__ import annotations

from typing import Any

import jax


def values(rows: Any, *others: Any, instead: str) -> tuple[Any, ...]:
    """Return the arrays of a custom derivative's arguments, of which none is differentiated.

    Raises `NotImplementedError` where the decoder rows are, naming what can be used `instead`.
    """
    if rows.perturbed:
        raise NotImplementedError(
            f"this product cannot be differentiated by its decoder rows; use {instead}"
        )
    return jax.tree.map(lambda x: x.value, (rows, *others), is_leaf=_is_primal)


def is_zero(change: Any) -> bool:
    """Return whether a cotangent is known to be 0."""
    return isinstance(change, jax.custom_derivatives.SymbolicZero)


def _is_primal(x: Any) -> bool:
    return isinstance(x, jax.custom_derivatives.CustomVJPPrimal)
