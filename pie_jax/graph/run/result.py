"""What a whole graph consists of, and the files that it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pie_jax.errors import InputError
from pie_jax.features.promoted import PromotedTokens, promoted_tokens
from pie_jax.features.records import FeatureExamples, FeatureKey
from pie_jax.features.texts import window_text
from pie_jax.graph.json_file import write_json
from pie_jax.graph.listing import Labels, Node, Scores, kept_edges, kept_nodes
from pie_jax.graph.page import write_page
from pie_jax.graph.prune import scores as graph_scores
from pie_jax.graph.run.validate import VALIDATION, Validation, save_validation, validate
from pie_jax.graph.tables import write_tables
from pie_jax.graph.types import Graph, Notes, Pruned
from pie_jax.models.loader import LanguageModel
from pie_jax.prune.results.resumable_folder import make_folder
from pie_jax.transcoders.store import Transcoder

PAGE, JSON = "graph.html", "graph.json"
# Tokens on each side of a feature.
_TOKENS = 8


class Input(NamedTuple):
    """A node that acts on the first target: its signed direct effect, and the share of all."""

    node: Node
    weight: float
    share: float


@dataclass(frozen=True)
class Texts:
    """What is known of features, by (layer, feature), from a run's later stages."""

    labels: Labels = field(default_factory=dict)
    scores: Scores = field(default_factory=dict)
    examples: Mapping[FeatureKey, FeatureExamples] = field(default_factory=dict)


@dataclass(frozen=True)
class GraphResult:
    """A graph, what pruning keeps of it, and how much it can be trusted.

    `replacement` and `completeness` are the scores of the whole graph, None where nothing has
    influence. `validation` sets its predictions against runs of the model, None where none was
    asked for. `kl` is KL(clean || circuit) in nats of a circuit's graph, None for a prompt's;
    `inactive` counts occurrences of the circuit that are active in the corrupted prompt alone and
    so are no nodes. `promoted` tokens are by (layer, feature); `page` is the page's path, None
    where nothing was written. `notes` say more of a task's graph and of a difference.
    """

    graph: Graph
    pruned: Pruned
    replacement: float | None
    completeness: float | None
    texts: Texts
    promoted: Mapping[FeatureKey, list[PromotedTokens]]
    validation: Validation | None = None
    kl: float | None = None
    inactive: int = 0
    page: Path | None = None
    notes: Notes = field(default_factory=Notes)

    def nodes(self) -> list[Node]:
        """Return the kept nodes."""
        return kept_nodes(self.graph, self.pruned)

    def inputs(self, most: int = 8) -> list[Input]:
        """Return the kept nodes of the largest direct effects on the first target."""
        edges, nodes = kept_edges(self.graph, self.pruned), {n.number: n for n in self.nodes()}
        first = self.graph.node_count - len(self.graph.targets)
        into = np.flatnonzero(edges.target == first)
        order = into[np.argsort(-np.abs(edges.weight[into]), kind="stable")][:most]
        return [
            Input(nodes[int(edges.source[i])], float(edges.weight[i]), float(edges.share[i]))
            for i in order
        ]


def finish(
    model: LanguageModel,
    transcoder: Transcoder,
    graph: Graph,
    pruned: Pruned,
    measured: int,
    texts: Texts | None = None,
) -> GraphResult:
    """Return a graph with its scores, its features' promoted tokens, and `measured` of its nodes
    compared with runs of the model."""
    kept = kept_nodes(graph, pruned)
    keys = sorted({FeatureKey(*node.key) for node in kept if node.key is not None})
    found = promoted_tokens(model, transcoder, keys, _TOKENS)
    checked = validate(model, transcoder, graph, pruned, measured) if measured else None
    promoted = {key: [one] for key, one in zip(keys, found, strict=True)}
    return GraphResult(
        graph, pruned, *graph_scores(graph), texts or Texts(), promoted, validation=checked
    )


def write(
    result: GraphResult,
    model: LanguageModel,
    transcoder: Transcoder,
    out: Path,
    *,
    title: str,
    slug: str,
    shares: tuple[float, float],
    prompt: str | None = None,
) -> Path:
    """Write the page, the JSON and the tables into a folder, and return the page's path; `prompt`
    is what they say where the graph's tokens are none.

    Raises `InputError` where the folder cannot be written to.
    """
    make_folder(out)
    graph, pruned, texts = result.graph, result.pruned, result.texts
    checked = result.validation
    write_page(
        out / PAGE,
        graph,
        pruned,
        labels=texts.labels,
        scores=texts.scores,
        examples=texts.examples,
        promoted=result.promoted,
        read=lambda window: window_text(model.tokenizer, window),
        measured=() if checked is None else checked.measured(),
        notes=result.notes,
        title=title,
        prompt=prompt,
    )
    write_json(
        out / JSON,
        graph,
        pruned,
        slug=slug,
        prompt=prompt,
        scan=transcoder.name,
        labels=texts.labels,
        scores=texts.scores,
        vocab_size=model.config.vocab_size,
        node_threshold=shares[0],
        edge_threshold=shares[1],
        notes=result.notes,
    )
    write_tables(out, [(0, graph, pruned)], texts.labels, result.notes)
    if checked is None:
        # An earlier graph's would be taken for this one's.
        (out / VALIDATION).unlink(missing_ok=True)
    else:
        save_validation(out, checked)
    return out / PAGE


def check_shares(nodes: float, edges: float, validate: int) -> None:
    """Raise `InputError` for thresholds outside 0 to 1, and a negative number of nodes to check."""
    for name, share in (("--nodes", nodes), ("--edges", edges)):
        if not 0 <= share <= 1:
            raise InputError(f"{name} {share}: must be a share from 0 to 1.")
    if validate < 0:
        raise InputError(f"--validate {validate}: must be at least 0 nodes.")


def require_features(graph: Graph, what: str) -> None:
    """Raise `InputError` where a graph has no feature."""
    if graph.feature_count == 0:
        raise InputError(
            f"{what}: no feature of the transcoder is active here, so that the graph has no nodes "
            "to show; name another prompt, or check the transcoder with `pie-jax check`."
        )
