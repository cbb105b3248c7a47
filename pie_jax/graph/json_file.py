"""The JSON of a graph that circuit-tracer's page and Neuronpedia read; see docs/graph-page.md."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pie_jax.charts.text import number
from pie_jax.errors import InputError
from pie_jax.files.atomic import replacing
from pie_jax.graph.listing import (
    ERROR,
    FEATURE,
    TARGET,
    TOKEN,
    Edges,
    Labels,
    Node,
    Scores,
    kept_edges,
    kept_nodes,
)
from pie_jax.graph.types import Graph, Notes, Pruned

# The version of the format that is written, and those that are read (None: not stated).
VERSION = 1
_READ = (None, 0, 1)
_TYPES = {
    FEATURE: "cross layer transcoder",
    ERROR: "mlp reconstruction error",
    TOKEN: "embedding",
    TARGET: "logit",
}
_SLUG = re.compile(r"[A-Za-z0-9_.-]+")
_NODE_KEYS: dict[str, type | tuple[type, ...]] = {
    "node_id": str,
    "feature": (int, type(None)),
    "layer": (str, int),
    "ctx_idx": int,
    "feature_type": str,
    "jsNodeId": str,
    "clerp": str,
}
_METADATA_KEYS: dict[str, type | tuple[type, ...]] = {
    "slug": str,
    "scan": str,
    "prompt_tokens": list,
    "prompt": str,
}

Supernodes = Sequence[tuple[str, Sequence[int]]]


class Link(NamedTuple):
    """An edge by the ids of its ends; `weight` is the signed direct effect."""

    source: str
    target: str
    weight: float


@dataclass(frozen=True)
class GraphFile:
    """A graph's JSON as it was read; `nodes` are its objects, by `node_id`, in their order.

    `supernodes` are (label, node ids).
    """

    metadata: Mapping[str, Any]
    nodes: Mapping[str, Mapping[str, Any]]
    links: tuple[Link, ...]
    pinned: tuple[str, ...]
    supernodes: tuple[tuple[str, tuple[str, ...]], ...]


def cantor(layer: int, feature: int) -> int:
    """Return the number by which the pages call a feature."""
    return (layer + feature) * (layer + feature + 1) // 2 + feature


def write_json(
    path: str | Path,
    graph: Graph,
    pruned: Pruned,
    *,
    slug: str,
    scan: str,
    prompt: str | None = None,
    labels: Labels | None = None,
    scores: Scores | None = None,
    pinned: Sequence[int] = (),
    supernodes: Supernodes = (),
    vocab_size: int | None = None,
    node_threshold: float | None = None,
    edge_threshold: float | None = None,
    feature_json_base_url: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    notes: Notes | None = None,
) -> dict[str, Any]:
    """Write what is kept of a graph, and return the file's `metadata`.

    `slug` names the graph. `scan` is the transcoder's repository for circuit-tracer's page and the
    model's id for Neuronpedia. `labels` and `scores` are by (layer, feature); `pinned` and
    `supernodes` are numbers of nodes. `vocab_size` gives targets that are no token an id.
    `feature_json_base_url` is where features' own JSON is hosted. `metadata` is added as it is;
    `notes` become an object `notes` of each node and link.

    Raises `InputError` for a bad slug, a pinned node that is not kept, a direction without
    `vocab_size`, or a key of `metadata` that is written anyway.
    """
    if not _SLUG.fullmatch(slug):
        raise InputError(
            f"slug {slug!r}: use letters, digits, '_', '.' and '-' only; it names a file."
        )
    nodes = kept_nodes(graph, pruned)
    ids = {node.number: node_id(node, graph, vocab_size) for node in nodes}
    about = {
        "slug": slug,
        "scan": scan,
        "transcoder_list": [],
        "prompt_tokens": list(graph.tokens),
        "prompt": "".join(graph.tokens) if prompt is None else prompt,
        "node_threshold": node_threshold,
        "pruning_settings": {
            key: value
            for key, value in (
                ("node_threshold", node_threshold),
                ("edge_threshold", edge_threshold),
            )
            if value is not None
        },
        **_where_features_are(feature_json_base_url),
    }
    if node_threshold is None:
        del about["node_threshold"]
    if both := sorted(set(about) & set(metadata or {})):
        raise InputError(f"metadata: {both[0]} is written anyway; leave it out.")
    about |= metadata or {}
    state = {
        "pinnedIds": [_known(ids, one, "pinned") for one in pinned],
        "supernodes": [
            [label, *(_known(ids, one, f"supernode {label!r}") for one in members)]
            for label, members in supernodes
        ],
        "linkType": "both",
        "clickedId": "",
        "sg_pos": "",
    }
    edges = kept_edges(graph, pruned)
    objects = (
        _node_object(node, ids[node.number], graph, pruned, labels or {}, scores or {})
        | _noted({} if notes is None else notes.nodes, node.number)
        for node in nodes
    )
    of_edges = {} if notes is None else {k: edges.note(v) for k, v in notes.edges.items()}
    with replacing(Path(path)) as temporary, temporary.open("w", encoding="ascii") as file:
        file.writelines(_lines(about, state, objects, _links(edges, ids, of_edges)))
    return about


def node_id(node: Node, graph: Graph, vocab_size: int | None = None) -> str:
    """Return a node's id in the file: its own, or for a direction one beyond the vocabulary."""
    if node.kind != TARGET or node.token is not None:
        return node.id
    return f"{graph.layers + 1}_{_virtual(node, vocab_size)}_{node.position}"


def read_json(path: str | Path) -> GraphFile:
    """Read a graph's JSON, of pie_jax, circuit-tracer or Neuronpedia.

    Raises `InputError` where it cannot be read, is another file or version, misses a key, or has an
    id twice or a link to none of its nodes.
    """
    path = Path(path)
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); name a graph's JSON file."
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not JSON ({error}); write the graph again.") from error
    if not isinstance(data, dict):
        raise InputError(f"{path}: is not the JSON of a graph, whose outermost part is an object.")
    about = _part(path, data, "metadata", dict)
    if (version := about.get("schema_version")) not in _READ or isinstance(version, bool):
        raise InputError(
            f"{path}: metadata.schema_version is {version!r}; versions up to {VERSION} are read: "
            "write the graph again, or use a newer pie_jax."
        )
    for key, kind in _METADATA_KEYS.items():
        _value(path, about, key, kind, "metadata")
    nodes = dict(_read_nodes(path, _part(path, data, "nodes", list)))
    links = tuple(_read_links(path, _part(path, data, "links", list), nodes))
    pinned, supernodes = _read_state(path, _part(path, data, "qParams", dict))
    return GraphFile(about, nodes, links, pinned, supernodes)


def _where_features_are(url: str | None) -> dict[str, Any]:
    # With a schema_version Neuronpedia asks its own database and never reads the address.
    if url is None:
        return {"schema_version": VERSION}
    return {"feature_details": {"feature_json_base_url": url}}


def _virtual(node: Node, vocab_size: int | None) -> int:
    assert node.target is not None
    if vocab_size is None:
        raise InputError(
            f"target {node.target} of the graph is a direction; give vocab_size, so that its id "
            "is that of no token."
        )
    return vocab_size + node.target


def _known(ids: Mapping[int, str], node: int, what: str) -> str:
    if node not in ids:
        raise InputError(f"{what}: node {node} is not kept; choose among those that are.")
    return ids[node]


def _node_object(
    node: Node, name: str, graph: Graph, pruned: Pruned, labels: Labels, scores: Scores
) -> dict[str, Any]:
    own = _own_keys(node, name, graph, labels, scores)
    return {
        "node_id": name,
        "ctx_idx": node.position,
        "feature_type": _TYPES[node.kind],
        "token_prob": 0.0,
        "is_target_logit": False,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "influence": None if node.kind == TARGET else _short(pruned.influence[node.number]),
        "activation": None,
        **own,
    }


def _own_keys(
    node: Node, name: str, graph: Graph, labels: Labels, scores: Scores
) -> dict[str, Any]:
    """Return the keys whose values depend on the kind of node."""
    if node.key is not None:
        return {
            "feature": cantor(*node.key),
            "layer": str(node.layer),
            "jsNodeId": f"{node.layer}_{node.feature}-0",
            "clerp": label_with_scores(labels, scores, node.key),
            "activation": _short(node.activation),
        }
    if node.kind == ERROR:
        return {
            "feature": -1,
            "layer": str(node.layer),
            "jsNodeId": f"err_{node.layer}_{node.position}-0",
            "clerp": "",
        }
    if node.kind == TOKEN:
        return {
            "feature": node.position,
            "layer": "E",
            "jsNodeId": f"E_{node.token}-{node.position}",
            "clerp": "",
        }
    return _target_object(name, graph, node)


def _target_object(name: str, graph: Graph, node: Node) -> dict[str, Any]:
    assert node.target is not None
    target, token = graph.targets[node.target], int(name.split("_")[1])
    # Both pages read the probability after the first `(p=`, and stop where there is none.
    label = target.label.replace("(p=", "(p =")
    return {
        "feature": token,
        "layer": str(graph.layers + 1),
        "jsNodeId": f"L_{token}-{node.position}",
        "clerp": f'Output "{label}" (p={target.probability:.3f})',
        "token_prob": target.probability,
        "is_target_logit": node.target == 0,
    }


def label_with_scores(labels: Labels, scores: Scores, key: tuple[int, int]) -> str:
    """Return a feature's label with its defined scores, such as `names [detection 0.93]`."""
    defined = [
        f"{name} {number(value)}"
        for name, value in scores.get(key, {}).items()
        if value is not None and value == value
    ]
    return " ".join(
        [labels.get(key, ""), *([f"[{', '.join(defined)}]"] if defined else [])]
    ).strip()


def _links(
    edges: Edges, ids: Mapping[int, str], notes: Mapping[str, np.ndarray]
) -> Iterator[dict[str, Any]]:
    ends = zip(edges.source.tolist(), edges.target.tolist(), edges.weight, strict=True)
    for i, (source, target, weight) in enumerate(ends):
        link = {"source": ids[source], "target": ids[target], "weight": _short(weight)}
        yield link | _noted(notes, i)


def _noted(notes: Mapping[str, np.ndarray], index: int) -> dict[str, Any]:
    found = {
        name: None if np.isnan(values[index]) else _short(values[index])
        for name, values in notes.items()
    }
    return {"notes": found} if found else {}


def _short(value: Any) -> float:
    """Return the shortest number that is the same float32."""
    return float(str(np.float32(value)))


def _lines(
    about: dict[str, Any],
    state: dict[str, Any],
    nodes: Iterable[dict[str, Any]],
    links: Iterable[dict[str, Any]],
) -> Iterator[str]:
    """Yield the file; one node or link a line, and only one at a time in memory."""
    yield f'{{"metadata": {_dump(about)},\n"qParams": {_dump(state)}'
    for name, objects in (("nodes", nodes), ("links", links)):
        yield f',\n"{name}": ['
        for i, one in enumerate(objects):
            yield ("\n" if i == 0 else ",\n") + _dump(one)
        yield "\n]"
    yield "}\n"


def _dump(value: Any) -> str:
    return json.dumps(value, allow_nan=False)


def _part(path: Path, data: dict[str, Any], key: str, kind: type) -> Any:
    return _value(path, data, key, kind, "the graph")


def _value(path: Path, data: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    if not isinstance(data, dict) or key not in data:
        raise InputError(f"{path}: {where} has no {key}; this is not the JSON of a whole graph.")
    value = data[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InputError(f"{path}: {key} of {where} is {str(value)[:40]!r}; write the graph again.")
    return value


def _read_nodes(path: Path, entries: list[Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    seen: set[str] = set()
    for i, entry in enumerate(entries):
        for key, kind in _NODE_KEYS.items():
            _value(path, entry, key, kind, f"node {i}")
        if (name := entry["node_id"]) in seen:
            raise InputError(
                f"{path}: node_id {name} is there twice, so that its links are ambiguous "
                "(circuit-tracer gives errors the ids of features of layer 0); write the graph "
                "again with ids of their own."
            )
        seen.add(name)
        yield name, entry


def _read_links(path: Path, entries: list[Any], nodes: Mapping[str, Any]) -> Iterator[Link]:
    for i, entry in enumerate(entries):
        source = _value(path, entry, "source", str, f"link {i}")
        target = _value(path, entry, "target", str, f"link {i}")
        weight = float(_value(path, entry, "weight", (int, float), f"link {i}"))
        for end in (source, target):
            if end not in nodes:
                raise InputError(
                    f"{path}: link {i} names {end}, which is no node; write the graph again."
                )
        if not np.isfinite(weight):
            raise InputError(f"{path}: the weight of link {i} is {weight}; write the graph again.")
        yield Link(source, target, weight)


def _read_state(
    path: Path, state: dict[str, Any]
) -> tuple[tuple[str, ...], tuple[tuple[str, tuple[str, ...]], ...]]:
    # Pages leave out, or set to null, what is not used.
    pinned, supernodes = state.get("pinnedIds") or [], state.get("supernodes") or []
    texts = [pinned, *supernodes] if isinstance(supernodes, list) else [None]
    for one in texts:
        if not isinstance(one, list) or not all(isinstance(text, str) for text in one):
            raise InputError(f"{path}: pinnedIds or supernodes of qParams are no lists of ids.")
    if not all(supernodes):
        raise InputError(f"{path}: a supernode of qParams has no label.")
    return tuple(pinned), tuple((label, tuple(ids)) for label, *ids in supernodes)
