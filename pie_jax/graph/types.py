"""A graph of direct effects, as arrays.

Shapes: T positions, L layers, S feature nodes, K logit targets, R = S + K rows, N = S + L·T + T + K
nodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class Target:
    """What a graph ends in: a token, or a direction with a label."""

    label: str
    token: int | None  # None for a direction, such as target minus distractor
    probability: float  # weight of the target in influence
    difference: tuple[int, int] | None = None  # the tokens of a target minus a distractor


@dataclass(frozen=True)
class Corrupted:
    """The prompt that a graph of changes starts from: its tokens as shown, T of them, and the
    activations of the graph's features in it."""

    tokens: tuple[str, ...]
    activation: Float[np.ndarray, "S"]


@dataclass(frozen=True)
class Graph:
    """Direct effects between the nodes of one prompt, where attention patterns, norm scales and
    MLPs are constants.

    Nodes are in the order features (by layer, position, feature), errors (layer · T + position),
    token embeddings (position), targets. `rows[i, j]` is the effect of node j on feature i's
    pre-activation or, from row S on, on target i - S's logit; the rows of errors and tokens are
    zero and are not stored.

    In a graph of changes, with `corrupted`, what a node writes is what it writes in the clean
    prompt minus what it writes in the corrupted one, and `activation` is such a difference too.
    """

    tokens: tuple[str, ...]  # as shown, T of them
    token_ids: Int[np.ndarray, "T"]
    layers: int
    layer: Int[np.ndarray, "S"]
    position: Int[np.ndarray, "S"]
    feature: Int[np.ndarray, "S"]
    activation: Float[np.ndarray, "S"]
    targets: tuple[Target, ...]
    rows: Float[np.ndarray, "R N"]
    corrupted: Corrupted | None = None

    @property
    def feature_count(self) -> int:
        """Number S of feature nodes."""
        return len(self.layer)

    @property
    def node_count(self) -> int:
        """Number N of nodes."""
        return self.rows.shape[1]


@dataclass(frozen=True)
class Pruned:
    """Which nodes and edges of a graph stay, and how strong each node is."""

    nodes: np.ndarray  # bool [N]
    edges: np.ndarray  # bool [S + K, N], a mask of `Graph.rows`
    influence: Float[np.ndarray, "N"]  # share held by a node and all stronger ones; 0 is strongest


@dataclass(frozen=True)
class Notes:
    """What else is known of a graph's nodes and edges, by name, for files and pages.

    `nodes` are [N] each, `edges` [R, N] each like `Graph.rows`; NaN is undefined.
    """

    nodes: Mapping[str, Float[np.ndarray, "N"]] = field(default_factory=dict)
    edges: Mapping[str, Float[np.ndarray, "R N"]] = field(default_factory=dict)
