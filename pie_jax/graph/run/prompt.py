"""`graph_prompt`: the attribution graph of one prompt, pruned, checked and written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pie_jax.errors import InputError
from pie_jax.graph.attribute import attribute
from pie_jax.graph.prune import prune_graph
from pie_jax.graph.run.result import GraphResult, check_shares, finish, require_features, write
from pie_jax.graph.targets import Targets
from pie_jax.models.loader import LanguageModel
from pie_jax.transcoders.store import Transcoder


def graph_prompt(
    model: LanguageModel,
    transcoder: Transcoder,
    prompt: str,
    *,
    corrupted: str | None = None,
    target: str | None = None,
    distractor: str | None = None,
    features: int = 1000,
    nodes: float = 0.8,
    edges: float = 0.98,
    validate: int = 0,
    out: str | Path | None = None,
) -> GraphResult:
    """Return the attribution graph of a prompt, and write its page and files into the folder `out`.

    With a `corrupted` prompt of as many tokens it is the graph of what changes from that one to
    `prompt`: see `attribution_graph`.

    It ends in the logit of `target` minus that of `distractor`, without them in the likeliest next
    tokens. `features` nodes at most; `nodes` and `edges` are the shares of influence that pruning
    keeps. `validate` of the kept features, the most influential, are removed in runs of the model.

    Raises `InputError` for a prompt of one token, an answer of several, one answer without the
    other, a share outside 0 to 1, and where no feature is left.
    """
    check_shares(nodes, edges, validate)
    if features < 1:
        raise InputError(f"--features {features}: must be at least 1.")
    graph = attribute(
        model, transcoder, prompt, corrupted=corrupted, targets=ends(target, distractor),
        features=features,
    )  # fmt: skip
    require_features(graph, "--prompt")
    pruned = prune_graph(graph, nodes, edges)
    if not pruned.nodes[: graph.feature_count].any():
        raise InputError(
            f"--nodes {nodes}, --edges {edges}: no feature is left in the graph; raise them."
        )
    result = finish(model, transcoder, graph, pruned, validate)
    if out is None:
        return result
    page = write(
        result, model, transcoder, Path(out),
        title="Attribution graph" if corrupted is None else "Graph of changes", slug="graph",
        shares=(nodes, edges),
    )  # fmt: skip
    return replace(result, page=page)


def ends(target: str | None, distractor: str | None) -> Targets:
    """Return the targets of a graph with such answers. Raises `InputError` for one of the two."""
    if target is None and distractor is None:
        return None
    if target is None or distractor is None:
        given, missing = ("--distractor", "--target") if target is None else (
            "--target", "--distractor",
        )  # fmt: skip
        raise InputError(
            f"{given} is given without {missing}: a graph ends in the difference of two tokens' "
            "logits; give both, or neither for the likeliest tokens."
        )
    return target, distractor
