"""The difference of two graphs, of two prompts or of two tasks, as a page and files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pie_jax.errors import InputError
from pie_jax.graph.attribute import attribute
from pie_jax.graph.merged.columns import columns
from pie_jax.graph.merged.difference import difference
from pie_jax.graph.merged.merge import Named, merge
from pie_jax.graph.prune import prune_graph
from pie_jax.graph.run.pair import load_texts
from pie_jax.graph.run.prompt import ends
from pie_jax.graph.run.result import GraphResult, Texts, check_shares, finish, write
from pie_jax.graph.run.task import open_task, prompt_graphs
from pie_jax.models.loader import LanguageModel
from pie_jax.transcoders.store import Transcoder


def prompt_difference(
    model: LanguageModel,
    transcoder: Transcoder,
    prompt: str,
    versus: str,
    *,
    target: str | None = None,
    distractor: str | None = None,
    features: int = 1000,
    merged: str | None = None,
    nodes: float = 0.8,
    edges: float = 0.98,
    out: str | Path | None = None,
) -> GraphResult:
    """Return the graph of `prompt` minus that of `versus`, and write its page and files into `out`.

    Each is linearised at its own prompt; both end in the same tokens, without a `target` in those
    that are likely after `prompt`. Nodes are matched by layer, feature and position: by its number
    where both have as many tokens, else by its role; or as `merged` says
    (`pie_jax.graph.merged.columns`). What either graph keeps when it is pruned by itself stays.
    Notes `a` and `b` hold both graphs' effects and activations, empty where a graph lacks the node.
    `replacement` and `completeness` are None: they are of one graph.

    Raises `InputError` as `graph_prompt` does.
    """
    check_shares(nodes, edges, 0)
    if features < 1:
        raise InputError(f"--features {features}: must be at least 1.")
    targets = ends(target, distractor)
    first = attribute(model, transcoder, prompt, targets=targets, features=features)
    same: Any = [one.token for one in first.targets] if targets is None else targets
    second = attribute(model, transcoder, versus, targets=same, features=features)
    answer, wrong = (
        None if text is None else model.tokenizer.answer_id(text) for text in (target, distractor)
    )
    if merged is None:
        merged = "position" if len(first.tokens) == len(second.tokens) else "role"
    named = [
        Named(one, columns(model.tokenizer, one.token_ids.tolist(), merged,
                           answers=(answer, wrong), corrupted=changed.token_ids.tolist()))
        for one, changed in ((first, second), (second, first))
    ]  # fmt: skip
    titles = None
    if merged == "position":
        longer = max(first.tokens, second.tokens, key=len)
        pairs = zip(first.tokens, second.tokens, strict=False)
        titles = (
            *(_both(*pair) for pair in pairs),
            *longer[min(len(first.tokens), len(second.tokens)) :],
        )
    title = "Difference of two prompts"
    shares, told = (nodes, edges), f"{prompt} − {versus}"
    return _written(model, transcoder, named, shares, out, title, told, Texts(), titles)


def task_difference(
    folder: str | Path,
    versus: str | Path,
    *,
    method: str | None = None,
    budget: int | None = None,
    features: int = 50,
    prompts: int = 64,
    merged: str = "role",
    changes: bool = False,
    nodes: float = 0.8,
    edges: float = 0.98,
    pairs: str | Path | None = None,
    model: LanguageModel | str | None = None,
    transcoder: Transcoder | str | None = None,
    out: str | Path | None = None,
) -> GraphResult:
    """Return the task graph of a run minus that of the run `versus`, and write its page and files
    into `graph-difference` in the first run's folder, or into `out`.

    Both graphs hold the features of both runs, and are made as `task_graph` makes them, of the same
    model and transcoder. Notes and scores are those of `prompt_difference`. Raises `InputError` as
    `task_graph` does.
    """
    check_shares(nodes, edges, 0)
    folder, versus = Path(folder), Path(versus)
    one = open_task(folder, method, budget, features, prompts, pairs, model, transcoder)
    # Raises where the second run was made with others.
    two = open_task(versus, method, budget, features, prompts, None, one.model, one.transcoder)
    both = list(dict.fromkeys([*one.features, *two.features]))
    named = []
    for task in (one, two):
        graph, _ = merge(*prompt_graphs(replace(task, features=both), merged, changes))
        named.append(Named(graph, graph.tokens))
    out = folder / "graph-difference" if out is None else Path(out)
    title, told = "Difference of two tasks", f"{one.about} − {two.about}"
    texts, shares = load_texts(folder, both), (nodes, edges)
    return _written(one.model, one.transcoder, named, shares, out, title, told, texts)


def _both(a: str, b: str) -> str:
    return a if a == b else f"{a}/{b}"


def _written(
    model: LanguageModel,
    transcoder: Transcoder,
    named: list[Named],
    shares: tuple[float, float],
    out: str | Path | None,
    title: str,
    told: str,
    texts: Texts,
    titles: tuple[str, ...] | None = None,
) -> GraphResult:
    kept = [prune_graph(one.graph, *shares) for one in named]
    graph, pruned, notes = difference(named[0], named[1], kept[0], kept[1])
    if graph.feature_count == 0:
        raise InputError("graph: no feature of the transcoder is active in either; name others.")
    if titles is not None:
        graph = replace(graph, tokens=titles)
    found = finish(model, transcoder, graph, pruned, 0, texts)
    found = replace(found, notes=notes, replacement=None, completeness=None)
    if out is None:
        return found
    page = write(
        found, model, transcoder, Path(out), title=title, slug="difference", shares=shares,
        prompt=told,
    )  # fmt: skip
    return replace(found, page=page)
