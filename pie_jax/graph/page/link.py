"""The pins and groups of a page's link, for `write_json` and others."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qs, urlsplit

from pie_jax.errors import InputError
from pie_jax.graph.listing import all_nodes
from pie_jax.graph.types import Graph


def read_link(link: str, graph: Graph) -> tuple[list[int], list[tuple[str, list[int]]]]:
    """Return the pinned nodes and the groups (name, nodes) of a link to a view of the graph's page.

    Nodes are numbers, as `write_json` takes them. Raises `InputError` where the link names a node
    that the graph does not have, or is no link to a view.
    """
    numbers = {node.id: node.number for node in all_nodes(graph)}
    parts = parse_qs(urlsplit(link).fragment)
    pinned = [_number(one, numbers) for text in parts.get("pin", []) for one in text.split(",")]
    if not pinned:
        raise InputError(f"link {link[:80]!r}: pins no nodes; copy it from the page, with its '#'.")
    groups = []
    for text in parts.get("group", []):
        words = text.split(",")
        # Ids have no comma; a name may have some.
        end = next((i for i, word in enumerate(words) if word not in numbers), len(words) - 1)
        groups.append((",".join(words[end:]), [numbers[word] for word in words[:end]]))
    return pinned, groups


def _number(name: str, numbers: Mapping[str, int]) -> int:
    if name not in numbers:
        raise InputError(f"link: {name[:40]} is no node of this graph; link to its own page.")
    return numbers[name]
