"""A graph's predictions beside runs of the model: what happens if a feature is removed?

A graph holds direct effects. The same intervention is measured with all that it holds constant
(`direct`), with attention patterns alone constant, and with nothing constant.

Shapes: M feature nodes that are measured, K targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int

from pie_jax.errors import InputError
from pie_jax.files.atomic import replacing
from pie_jax.graph.listing import all_nodes
from pie_jax.graph.page import Measured
from pie_jax.graph.types import Graph, Pruned
from pie_jax.intervene.changes import Change
from pie_jax.intervene.passes import FREEZES
from pie_jax.intervene.run import intervene
from pie_jax.models.loader import LanguageModel
from pie_jax.transcoders.store import Transcoder

VALIDATION = "graph_validation.parquet"
# What a run of the model does: nothing is held constant.
_RUN = "nothing"


class Correlation(NamedTuple):
    """Agreement of predicted and measured changes; None where it is not defined."""

    pearson: float | None
    spearman: float | None


@dataclass(frozen=True)
class Validation:
    """Changes of targets when a feature node is removed, predicted and measured.

    `node` [M] are numbers of the graph, the most influential first; `predicted` [M, K] is minus the
    direct effect, `changes` [M, K] by what is frozen: the change of the target's logit against the
    mean of all, before a final softcap.
    """

    graph: Graph
    node: Int[np.ndarray, " M"]
    predicted: Float[np.ndarray, "M K"]
    changes: dict[str, Float[np.ndarray, "M K"]]

    def correlations(self, target: int = 0) -> dict[str, Correlation]:
        """Return how predicted and measured changes of a target go together, by what is frozen."""
        x = self.predicted[:, target]
        return {name: correlation(x, y[:, target]) for name, y in self.changes.items()}

    def measured(self) -> list[Measured]:
        """Return what the page shows: runs of the model with nothing frozen."""
        found = self.changes[_RUN]
        return [
            Measured(int(node), k, 0.0, float(self.predicted[i, k]), float(found[i, k]))
            for i, node in enumerate(self.node)
            for k in range(found.shape[1])
        ]

    def table(self) -> pa.Table:
        """Return a row for each node and target; the columns are in docs/graph-page.md."""
        nodes, targets = all_nodes(self.graph), self.graph.targets
        at = [(i, k) for i in range(len(self.node)) for k in range(len(targets))]
        found = [nodes[int(self.node[i])] for i, _ in at]
        i, k = np.array(at, np.int64).reshape(-1, 2).T
        return pa.table(
            {
                "node": pa.array([one.number for one in found], pa.int32()),
                "id": pa.array([one.id for one in found], pa.string()),
                "layer": pa.array([one.layer for one in found], pa.int32()),
                "position": pa.array([one.position for one in found], pa.int32()),
                "feature": pa.array([one.feature for one in found], pa.int32()),
                "target": pa.array(k.astype(np.int32)),
                "predicted": self.predicted[i, k].astype(np.float32),
                **{name: self.changes[name][i, k].astype(np.float32) for name in FREEZES},
            }
        )


def validate(
    model: LanguageModel, transcoder: Transcoder, graph: Graph, pruned: Pruned, most: int
) -> Validation:
    """Remove the `most` influential kept features one by one, and measure what the targets do; in a
    graph of changes, set them to their activation in the corrupted prompt.

    Raises `InputError` for targets that are neither tokens nor the difference of two.
    """
    kept = np.flatnonzero(pruned.nodes[: graph.feature_count])
    order = np.argsort(pruned.influence[kept], kind="stable")
    node = kept[order][:most]
    ids, weights = _tokens(graph)
    removed = np.zeros(len(graph.layer)) if graph.corrupted is None else graph.corrupted.activation
    lists = [
        [
            Change(
                int(graph.layer[n]), int(graph.feature[n]), int(graph.position[n]),
                value=float(removed[n]),
            )
        ]
        for n in node
    ]  # fmt: skip
    changes = {}
    for freeze in FREEZES:
        found = np.zeros((len(node), len(graph.targets)), np.float32)
        if len(node):
            runs = intervene(
                model, transcoder, [graph.token_ids.tolist()], lists, freeze=freeze, targets=ids
            )
            found = runs.target_changes[0] @ weights.T
        changes[freeze] = found
    predicted = -graph.rows[graph.feature_count :, node].T
    return Validation(graph, node, predicted, changes)


def _tokens(graph: Graph) -> tuple[list[int], Float[np.ndarray, "K I"]]:
    """Return the tokens I that targets are made of, and how each target counts them."""
    parts = []
    for target in graph.targets:
        if target.token is not None:
            parts.append([(target.token, 1.0)])
        elif target.difference is not None:
            parts.append(list(zip(target.difference, (1.0, -1.0), strict=True)))
        else:
            raise InputError(
                f"target {target.label!r}: is a direction and no token, whose change is not "
                "measured; give tokens, or a target and a distractor."
            )
    ids = sorted({token for part in parts for token, _ in part})
    weights = np.zeros((len(parts), len(ids)), np.float32)
    for k, part in enumerate(parts):
        for token, weight in part:
            weights[k, ids.index(token)] += weight
    return ids, weights


def correlation(x: Float[np.ndarray, " M"], y: Float[np.ndarray, " M"]) -> Correlation:
    """Return Pearson's and Spearman's correlation, None for one value or where all are equal."""
    from scipy.stats import rankdata  # takes half a second to import

    return Correlation(_pearson(x, y), _pearson(rankdata(x), rankdata(y)))


def _pearson(x: np.ndarray, y: np.ndarray) -> float | None:
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(x.astype(np.float64), y.astype(np.float64))[0, 1])


def save_validation(folder: Path, found: Validation) -> None:
    """Write graph_validation.parquet."""
    with replacing(folder / VALIDATION) as temporary:
        pq.write_table(found.table(), temporary, compression="zstd")
