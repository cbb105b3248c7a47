"""What the page's script is given: nodes, edges and features, in the order that it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pie_jax.charts.text import number, printable, visible
from pie_jax.features.promoted import PromotedTokens
from pie_jax.features.records import FeatureExamples, FeatureKey
from pie_jax.features.texts import Reader
from pie_jax.graph.listing import (
    ERROR,
    FEATURE,
    TARGET,
    TOKEN,
    Labels,
    Node,
    Scores,
    edge_influence,
    kept_edges,
    kept_nodes,
)
from pie_jax.graph.types import Graph, Notes, Pruned
from pie_jax.report.explained import pieces

KINDS = (FEATURE, ERROR, TOKEN, TARGET)
# Of a feature: windows, and tokens on each side.
_WINDOWS, _TOKENS = 5, 8

Examples = Mapping[FeatureKey, FeatureExamples]
Promoted = Mapping[FeatureKey, Sequence[PromotedTokens]]


class Measured(NamedTuple):
    """The change of a target when a node's activation is multiplied by `factor`; 0 removes it.

    `node` is the node's number, `target` the target's place in `Graph.targets`; `predicted` is what
    the graph says, `measured` what a run of the model gave, None where there is no such run.
    """

    node: int
    target: int
    factor: float
    predicted: float
    measured: float | None


def payload(
    graph: Graph,
    pruned: Pruned,
    *,
    labels: Labels,
    scores: Scores,
    examples: Examples,
    promoted: Promoted,
    read: Reader | None,
    measured: Sequence[Measured],
    notes: Notes,
) -> dict[str, Any]:
    """Return the page's data: `nodes` in order, `edges` as columns, most influential first."""
    nodes = kept_nodes(graph, pruned)
    place = {node.number: i for i, node in enumerate(nodes)}
    keys = dict.fromkeys(node.key for node in nodes if node.key is not None)
    return {
        "tokens": [visible(token) for token in graph.tokens],
        "layers": graph.layers,
        # A direction has a weight, and no probability.
        "targets": [
            [printable(one.label), None]
            if one.token is None
            else [visible(one.label), one.probability]
            for one in graph.targets
        ],
        "changes": graph.corrupted is not None,
        "nodes": [_node(node, pruned) for node in nodes],
        "edges": _edges(graph, pruned, place, notes),
        "notes": {
            name: _noted(values[[node.number for node in nodes]])
            for name, values in notes.nodes.items()
        },
        "features": {
            f"{layer}/{feature}": _feature(
                FeatureKey(layer, feature), labels, scores, examples, promoted, read
            )
            for layer, feature in keys
        },
        "measured": _measured(measured, place, len(graph.targets)),
    }


def _node(node: Node, pruned: Pruned) -> list[Any]:
    return [
        node.id,
        KINDS.index(node.kind),
        node.layer,
        node.position,
        node.feature,
        None if node.activation is None else _digits(node.activation),
        None if node.kind == TARGET else _digits(pruned.influence[node.number]),
        node.target,
    ]


def _noted(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else _digits(value) for value in values]


def _edges(graph: Graph, pruned: Pruned, place: Mapping[int, int], notes: Notes) -> dict[str, Any]:
    edges = kept_edges(graph, pruned)
    influence = edge_influence(graph, edges)
    order = np.argsort(-influence, kind="stable")
    return {
        "source": [place[i] for i in edges.source[order].tolist()],
        "target": [place[i] for i in edges.target[order].tolist()],
        "weight": [_digits(w) for w in edges.weight[order].tolist()],
        # Of a row of zeros nothing is a share, and nothing is drawn.
        "share": [_digits(s) for s in np.nan_to_num(edges.share[order]).tolist()],
        "influence": [_digits(i) for i in influence[order].tolist()],
        "notes": {name: _noted(edges.note(values)[order]) for name, values in notes.edges.items()},
    }


def _feature(
    key: FeatureKey,
    labels: Labels,
    scores: Scores,
    examples: Examples,
    promoted: Promoted,
    read: Reader | None,
) -> dict[str, Any]:
    windows: list[Any] = []
    if (found := examples.get(key)) is not None:
        if read is None:
            raise ValueError("examples need `read`, which turns their windows into text")
        windows = [pieces(read(window), found.maximum) for window in found.top[:_WINDOWS]]
    total = next(iter(promoted.get(key, ())), None)
    sides = () if total is None else (total.promoted, total.suppressed)
    return {
        "label": printable(labels.get(key, "")),
        "scores": [[printable(name), number(v)] for name, v in scores.get(key, {}).items()],
        "windows": windows,
        "tokens": [[visible(token.text) for token in side[:_TOKENS]] for side in sides],
    }


def _measured(
    measured: Sequence[Measured], place: Mapping[int, int], targets: int
) -> dict[str, list[Any]]:
    out: dict[str, list[Any]] = {}
    for one in measured:
        if not 0 <= one.target < targets:
            raise ValueError(f"measured: target {one.target} is none of the graph's {targets}")
        # What pruning dropped is not on the page.
        if one.node in place:
            value = None if one.measured is None else _digits(one.measured)
            row = [one.target, _digits(one.factor), _digits(one.predicted), value]
            out.setdefault(str(place[one.node]), []).append(row)
    return out


def _digits(value: float) -> float:
    return float(f"{value:.4g}")
