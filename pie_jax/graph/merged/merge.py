"""Graphs of several prompts on the same nodes: their mean, and how much prompts differ.

Shapes: T columns of the merged graph, L layers, S features, R = S + K rows, N nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from pie_jax.errors import InputError
from pie_jax.graph.types import Graph, Notes, Target


@dataclass(frozen=True)
class Named:
    """A graph and the name of each of its positions; those of one name become one."""

    graph: Graph
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Frame:
    """The nodes on which graphs are laid: `columns` in the order of their mean places, and features
    by layer, column and number."""

    columns: tuple[str, ...]
    layers: int
    layer: Int[np.ndarray, "S"]
    column: Int[np.ndarray, "S"]
    feature: Int[np.ndarray, "S"]
    targets: int

    @property
    def shape(self) -> tuple[int, int]:
        """R and N."""
        rows = len(self.layer) + self.targets
        return rows, rows + (self.layers + 1) * len(self.columns)


@dataclass(frozen=True)
class Laid:
    """A graph on a frame: summed `rows` [R, N] and `activation` [S], 0 where it has no such node,
    and which `nodes` [N] it has. Of a row that it does not have nothing is known."""

    rows: Float[np.ndarray, "R N"]
    activation: Float[np.ndarray, "S"]
    nodes: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """Return which rows it has, [R]."""
        features = len(self.activation)
        first = len(self.nodes) - (len(self.rows) - features)
        return np.concatenate([self.nodes[:features], self.nodes[first:]])


def frame(graphs: Sequence[Named]) -> Frame:
    """Return the union of the nodes of some graphs.

    Raises `InputError` without a graph, or where they have other layers or numbers of targets.
    """
    if not graphs:
        raise InputError("graphs: there are none to put together; give at least one.")
    layers, targets = graphs[0].graph.layers, len(graphs[0].graph.targets)
    where: dict[str, list[float]] = {}
    for one in graphs:
        if (one.graph.layers, len(one.graph.targets)) != (layers, targets):
            raise InputError(
                "graphs: they have other numbers of layers or targets, so that their nodes cannot "
                "be matched; make them with one model, and one target each."
            )
        # As shares of the prompt, so that its end is last.
        for position, name in enumerate(one.columns):
            where.setdefault(name, []).append(position / max(len(one.columns) - 1, 1))
    names = sorted(where, key=lambda name: (float(np.mean(where[name])), name))
    if all(name.isdigit() for name in names):
        names.sort(key=int)
    index = {name: i for i, name in enumerate(names)}
    keys = sorted({key for one in graphs for key in _keys(one, index)})
    layer, column, feature = np.array(keys, np.int64).reshape(-1, 3).T
    return Frame(tuple(names), layers, layer, column, feature, targets)


def _keys(one: Named, index: dict[str, int]) -> Iterable[tuple[int, int, int]]:
    graph = one.graph
    column = [index[one.columns[position]] for position in graph.position]
    return zip(graph.layer.tolist(), column, graph.feature.tolist(), strict=True)


def places(one: Named, on: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Return which row of a frame each row of a graph becomes, and which node each node."""
    graph, index = one.graph, {name: i for i, name in enumerate(on.columns)}
    features, width = len(on.layer), len(on.columns)
    keys = zip(on.layer.tolist(), on.column.tolist(), on.feature.tolist(), strict=True)
    there = {key: i for i, key in enumerate(keys)}
    own = np.array([there[key] for key in _keys(one, index)], np.int64)
    column = np.array([index[name] for name in one.columns])
    errors = (features + np.arange(graph.layers)[:, None] * width + column).reshape(-1)
    tokens = features + on.layers * width + column
    rows, nodes = on.shape
    ends = np.arange(nodes - on.targets, nodes)
    return np.r_[own, features:rows], np.concatenate([own, errors, tokens, ends])


def lay(one: Named, on: Frame) -> Laid:
    """Lay a graph on a frame: nodes that become one write, and are read, together."""
    graph, (rows, nodes) = one.graph, on.shape
    row, node = places(one, on)
    by_column = np.zeros((len(graph.rows), nodes), np.float32)
    np.add.at(by_column.T, node, graph.rows.T)
    out = np.zeros((rows, nodes), np.float32)
    np.add.at(out, row, by_column)
    activation = np.zeros(len(on.layer), np.float32)
    np.add.at(activation, node[: graph.feature_count], graph.activation)
    has = np.zeros(nodes, bool)
    has[node] = True
    return Laid(out, activation, has)


def merge(graphs: Sequence[Named], targets: tuple[Target, ...]) -> tuple[Graph, Notes]:
    """Return the mean of graphs with its `targets`, and notes on how much they differ.

    Effects and activations are means over all graphs, 0 in those that lack an end of the edge.
    Notes: `prompts`, the share of graphs that have a node, or both ends of an edge and an effect;
    `mean` and `spread`, an edge's mean and standard deviation over these (of one graph no spread).
    Raises `InputError` as `frame` does.
    """
    on = frame(graphs)
    rows, nodes = on.shape
    total, squares, count = (np.zeros((rows, nodes)) for _ in range(3))
    activation, has = np.zeros(len(on.layer)), np.zeros(nodes)
    for one in graphs:
        laid = lay(one, on)
        total += laid.rows
        squares += laid.rows.astype(np.float64) ** 2
        count += laid.rows != 0
        activation += laid.activation
        has += laid.nodes
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(count > 0, total / count, np.nan)
        variance = np.maximum(squares - count * mean**2, 0) / (count - 1)
    notes = Notes(
        nodes={"prompts": has / len(graphs)},
        edges={
            "prompts": count / len(graphs),
            "mean": mean,
            "spread": np.where(count > 1, np.sqrt(variance), np.nan),
        },
    )
    token_ids = common_tokens(graphs, on.columns)
    graph = on_frame(on, targets, token_ids, total / len(graphs), activation / len(graphs))
    return graph, notes


def on_frame(
    on: Frame,
    targets: tuple[Target, ...],
    token_ids: Int[np.ndarray, "T"],
    rows: Float[np.ndarray, "R N"],
    activation: Float[np.ndarray, "S"],
) -> Graph:
    """Return a graph of a frame's nodes."""
    return Graph(
        tokens=on.columns,
        token_ids=token_ids,
        layers=on.layers,
        layer=on.layer,
        position=on.column,
        feature=on.feature,
        activation=activation.astype(np.float32),
        targets=targets,
        rows=rows.astype(np.float32),
    )


def common_tokens(graphs: Iterable[Named], names: Sequence[str]) -> Int[np.ndarray, "T"]:
    """Return the token that stands most often at each of some columns; of equals the lowest."""
    seen: dict[str, dict[int, int]] = {name: {} for name in names}
    for one in graphs:
        for name, token in zip(one.columns, one.graph.token_ids.tolist(), strict=True):
            seen[name][token] = seen[name].get(token, 0) + 1
    return np.array([min(one, key=lambda token: (-one[token], token)) for one in seen.values()])
