"""Removals by their cones, planned and run for each data shard's prompts alone.

Shapes: B batch, S sets, K members of a set, J chunks, C sets of a chunk.
"""

from __future__ import annotations

from dataclasses import fields

import jax
import numpy as np

from pie_jax.devices.mesh import DATA, fetch, mesh_of, put
from pie_jax.prune.batch.metrics import Metric
from pie_jax.prune.batch.problem import Problem
from pie_jax.prune.engine.per_shard import per_shard
from pie_jax.prune.engine.removals.plan import Cones, Starts, plan
from pie_jax.prune.engine.removals.run import cone_metrics


def cone_effects(
    problem: Problem,
    starts: Starts,
    sets: np.ndarray,
    clean: np.ndarray,
    metric: Metric,
    rows: int,
) -> np.ndarray:
    """Return by how much removing each set [B, S, K] lowers each prompt's metric, [B, S].

    `clean` [B] is the metric with nothing removed.

    Every shard has a plan of its own prompts; the plans' shapes are the same.
    """
    mesh = mesh_of(problem.delta)
    shards = 1 if mesh is None else mesh.shape[DATA]
    size = len(sets) // shards
    sizes = (problem.delta.shape[1], *problem.sizes, rows)
    parts = zip(_split(starts, shards), np.split(sets, shards), strict=True)
    plans = [plan(start, part, *sizes) for start, part in parts]
    # What changes nothing is in no plan, and has no effect.
    effects = np.zeros(sets.shape[:2], np.float32)
    for works in zip(*plans, strict=True):
        found = _run(problem, [work.cones for work in works], works[0].width, metric)
        for shard, work in enumerate(works):
            flat = found[shard].reshape(-1)
            prompt = shard * size + work.prompts
            effects[prompt, work.sets] = clean[prompt] - flat[work.places].mean(axis=1)
    return effects


def _run(problem: Problem, cones: list[Cones], width: int, metric: Metric) -> np.ndarray:
    mesh = mesh_of(problem.delta)
    if mesh is None:
        return np.asarray(cone_metrics(problem, cones[0], width, metric))[None]
    stacked = jax.tree.map(lambda *arrays: put(mesh, np.stack(arrays)), *cones)
    return fetch(per_shard(_own_cones, problem, stacked, width=width, metric=metric))


def _own_cones(problem: Problem, cones: Cones, *, width: int, metric: Metric) -> jax.Array:
    """Return the metric of one shard's sets, [1, J, C], from its part of the stacked plans."""
    own = jax.tree.map(lambda array: array[0], cones)
    return cone_metrics(problem, own, width, metric)[None]


def _split(starts: Starts, shards: int) -> list[Starts]:
    each = [np.split(getattr(starts, field.name), shards) for field in fields(starts)]
    return [Starts(*arrays) for arrays in zip(*each, strict=True)]
