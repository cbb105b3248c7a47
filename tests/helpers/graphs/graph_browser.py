"""What tests of a graph's page in a browser look for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pie_jax.graph.listing import Node, kept_nodes
from pie_jax.graph.types import Graph, Pruned

Open = Callable[..., Any]


def features(graph: Graph, pruned: Pruned) -> list[Node]:
    return [node for node in kept_nodes(graph, pruned) if node.kind == "feature"]


def mark(graph: Graph, pruned: Pruned, node: Node) -> str:
    place = [one.number for one in kept_nodes(graph, pruned)].index(node.number)
    return f'.mark[data-i="{place}"]'


def link_of(page: Any) -> str:
    # `page.url` is told of a change some time after it.
    return page.evaluate("location.href")


def fragment_of(page: Any) -> str:
    return f"#{link_of(page).partition('#')[2]}"


def pin(*nodes: Node) -> str:
    return f"#pin={','.join(node.id for node in nodes)}"
