"""The graph that the tests of this folder share."""

from __future__ import annotations

import pytest
from random_graphs import random_graph

from pie_jax.graph.types import Graph, Pruned


@pytest.fixture(scope="module")
def made() -> tuple[Graph, Pruned]:
    return random_graph()
