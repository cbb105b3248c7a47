"""Attribution graphs: which features, errors and tokens make which features and logits."""

from __future__ import annotations

from pie_jax.graph.prune import prune_graph, scores
from pie_jax.graph.types import Graph, Pruned, Target

__all__ = ["Graph", "Pruned", "Target", "prune_graph", "scores"]
