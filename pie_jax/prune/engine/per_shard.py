"""A pass on each data shard's prompts alone, whatever loops it holds.

Shapes: B batch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from pie_jax.devices.mesh import DATA, mesh_of
from pie_jax.prune.batch.problem import Problem

# Everything of a batch is [B, ...] but what its prompts share.
_PARTS: dict[str, Any] = {name: P(DATA) for name in Problem._fields}
_SPLIT = Problem(**{**_PARTS, "model": P(), "table": P(), "tiles": P()})


def per_shard(function: Callable[..., Any], problem: Problem, *arrays: Any, **static: Any) -> Any:
    """Return `function(problem, *arrays, **static)`; arrays and results are [B, ...].

    On a mesh every device along `data` runs it on its own prompts and nothing else, so that a
    loop over prompts, or one whose length depends on them, neither gathers the batch nor waits
    for other shards; the compiler still divides the work over `model`. `static` must be hashable.
    """
    mesh = mesh_of(problem.delta)
    if mesh is None:
        return function(problem, *arrays, **static)
    return _on_mesh(function, mesh, len(arrays), tuple(sorted(static.items())))(problem, *arrays)


@cache
def _on_mesh(function: Callable[..., Any], mesh: Mesh, arrays: int, static: tuple) -> Any:
    split = jax.shard_map(
        partial(function, **dict(static)),
        mesh=mesh,
        axis_names={DATA},
        in_specs=(_SPLIT, *[P(DATA)] * arrays),
        out_specs=P(DATA),
        # Loops start from constants, which are the same on every shard.
        check_vma=False,
    )
    return jax.jit(split)
