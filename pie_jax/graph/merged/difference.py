"""The difference of two graphs, node by node and edge by edge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pie_jax.graph.merged.merge import (
    Frame,
    Laid,
    Named,
    common_tokens,
    frame,
    lay,
    on_frame,
    places,
)
from pie_jax.graph.types import Graph, Notes, Pruned


def difference(a: Named, b: Named, kept_a: Pruned, kept_b: Pruned) -> tuple[Graph, Pruned, Notes]:
    """Return graph `a` minus graph `b`, what of it either pruning keeps, and notes of both.

    Nodes are matched by layer, feature and the name of their position, targets by their order. A
    node that one graph lacks writes nothing there: its effects are 0. Effects on a feature that one
    graph lacks are undefined there: the difference counts them as 0, and the note is empty. Notes:
    `a` and `b` of edges, the effects, and of feature nodes, the activations. A node's influence is
    the stronger of both. Raises `InputError` as `frame` does.
    """
    on = frame([a, b])
    laid = lay(a, on), lay(b, on)
    targets = tuple(
        replace(x, label=x.label if x.label == y.label else f"{x.label} / {y.label}",
                probability=(x.probability + y.probability) / 2,
                token=x.token if x.token == y.token else None)
        for x, y in zip(a.graph.targets, b.graph.targets, strict=True)
    )  # fmt: skip
    graph = on_frame(
        on, targets, common_tokens([a, b], on.columns), laid[0].rows - laid[1].rows,
        laid[0].activation - laid[1].activation,
    )  # fmt: skip
    prunings = [_laid(one, kept, on) for one, kept in ((a, kept_a), (b, kept_b))]
    pruned = Pruned(
        prunings[0].nodes | prunings[1].nodes,
        prunings[0].edges | prunings[1].edges,
        np.minimum(prunings[0].influence, prunings[1].influence),
    )
    notes = Notes(
        nodes={name: _activation(one) for name, one in zip("ab", laid, strict=True)},
        edges={name: _effects(one) for name, one in zip("ab", laid, strict=True)},
    )
    return graph, pruned, notes


def _effects(one: Laid) -> np.ndarray:
    return np.where(one.known[:, None], one.rows, np.nan)


def _activation(one: Laid) -> np.ndarray:
    out = np.full(len(one.nodes), np.nan)
    out[: len(one.activation)] = one.activation
    return out


def _laid(one: Named, kept: Pruned, on: Frame) -> Pruned:
    """Return what is kept on a frame; of nodes that become one, the most influential counts."""
    rows, nodes = on.shape
    order, to = places(one, on)
    out_nodes, edges = np.zeros(nodes, bool), np.zeros((rows, nodes), bool)
    out_nodes[to[kept.nodes]] = True
    influence = np.ones(nodes)
    np.minimum.at(influence, to, kept.influence)
    row, source = np.nonzero(kept.edges)
    edges[order[row], to[source]] = True
    return Pruned(out_nodes, edges, influence)
