"""graph_nodes.parquet and graph_edges.parquet; their columns are in docs/graph-page.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pie_jax.errors import InputError
from pie_jax.files.atomic import replacing
from pie_jax.graph.listing import (
    TARGET,
    TOKEN,
    Labels,
    Node,
    edge_influence,
    kept_edges,
    kept_nodes,
)
from pie_jax.graph.types import Graph, Notes, Pruned

NODES, EDGES = "graph_nodes.parquet", "graph_edges.parquet"
_NODES = pa.schema(
    [
        ("prompt", pa.int32()),
        ("node", pa.int32()),
        ("id", pa.string()),
        ("kind", pa.string()),
        ("layer", pa.int32()),
        ("position", pa.int32()),
        ("feature", pa.int32()),
        ("token", pa.int32()),
        ("text", pa.string()),
        ("label", pa.string()),
        ("activation", pa.float32()),
        ("probability", pa.float32()),
        ("influence", pa.float32()),
    ]
)
_EDGES = pa.schema(
    [
        ("prompt", pa.int32()),
        ("source", pa.int32()),
        ("target", pa.int32()),
        ("weight", pa.float32()),
        ("share", pa.float32()),
        ("influence", pa.float32()),
    ]
)


def write_tables(
    folder: str | Path,
    graphs: Iterable[tuple[int, Graph, Pruned]],
    labels: Labels | None = None,
    notes: Notes | None = None,
) -> None:
    """Write what is kept of one or many graphs, each with the number of its prompt.

    Graphs are taken one by one, so that only one of them need be in memory. `labels` are by
    (layer, feature). `notes`, of a single graph, become columns behind the others.
    """
    folder, notes = Path(folder), notes or Notes()
    schemas = _with(_NODES, notes.nodes), _with(_EDGES, notes.edges)
    with (
        replacing(folder / NODES) as nodes_file,
        replacing(folder / EDGES) as edges_file,
        pq.ParquetWriter(nodes_file, schemas[0], compression="zstd") as nodes,
        pq.ParquetWriter(edges_file, schemas[1], compression="zstd") as edges,
    ):
        for prompt, graph, pruned in graphs:
            nodes.write_table(_node_table(prompt, graph, pruned, labels or {}, notes))
            edges.write_table(_edge_table(prompt, graph, pruned, notes))


def read_tables(folder: str | Path) -> tuple[pa.Table, pa.Table]:
    """Return the tables of nodes and of edges.

    Raises `InputError` where one is missing, broken, or has other columns.
    """
    return _read(Path(folder) / NODES, _NODES), _read(Path(folder) / EDGES, _EDGES)


def _read(path: Path, schema: pa.Schema) -> pa.Table:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: no table of a graph; write the graph's tables again.") from error
    # Notes stand behind the columns that every graph has.
    if not pa.schema(list(table.schema)[: len(schema)]).equals(schema):
        raise InputError(
            f"{path}: has other columns than this version writes; write the graph's tables again."
        )
    return table


def _with(schema: pa.Schema, notes: Mapping[str, np.ndarray]) -> pa.Schema:
    return pa.schema([*schema, *((name, pa.float32()) for name in notes)])


def _noted(values: np.ndarray) -> pa.Array:
    return pa.array(values.astype(np.float32), mask=np.isnan(values))


def _node_table(
    prompt: int, graph: Graph, pruned: Pruned, labels: Labels, notes: Notes
) -> pa.Table:
    rows = [_node_row(prompt, node, graph, pruned, labels) for node in kept_nodes(graph, pruned)]
    table = pa.Table.from_pylist(rows, _NODES)
    for name, values in notes.nodes.items():
        table = table.append_column(name, _noted(values[table["node"].to_numpy()]))
    return table


def _node_row(
    prompt: int, node: Node, graph: Graph, pruned: Pruned, labels: Labels
) -> dict[str, Any]:
    target = None if node.target is None else graph.targets[node.target]
    text = graph.tokens[node.position] if target is None else target.label
    label = None if node.key is None else labels.get(node.key)
    return {
        "prompt": prompt,
        "node": node.number,
        "id": _utf8(node.id),
        "kind": node.kind,
        "layer": node.layer,
        "position": node.position,
        "feature": node.feature,
        "token": node.token if node.kind in (TOKEN, TARGET) else None,
        "text": _utf8(text),
        "label": None if label is None else _utf8(label),
        "activation": node.activation,
        "probability": None if target is None else target.probability,
        "influence": None if target is not None else float(pruned.influence[node.number]),
    }


def _edge_table(prompt: int, graph: Graph, pruned: Pruned, notes: Notes) -> pa.Table:
    edges = kept_edges(graph, pruned)
    columns = {
        "prompt": np.full(len(edges.source), prompt, np.int32),
        "source": edges.source.astype(np.int32),
        "target": edges.target.astype(np.int32),
        "weight": edges.weight.astype(np.float32),
        "share": pa.array(edges.share.astype(np.float32), mask=np.isnan(edges.share)),
        "influence": edge_influence(graph, edges).astype(np.float32),
    }
    columns |= {name: _noted(edges.note(values)) for name, values in notes.edges.items()}
    return pa.table(columns, schema=_with(_EDGES, notes.edges))


def _utf8(text: str) -> str:
    # Half a surrogate pair, which JSON allows, has no place in UTF-8.
    return text.encode("utf-8", "backslashreplace").decode()
