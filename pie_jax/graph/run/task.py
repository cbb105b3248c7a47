"""`task_graph`: one graph of a task's features over many prompts of a finished run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from pie_jax.errors import InputError
from pie_jax.features.kept import kept_features
from pie_jax.features.weights import load_weights
from pie_jax.graph.attribute import Key, attribute_many
from pie_jax.graph.merged.columns import MERGES, columns
from pie_jax.graph.merged.merge import Named, merge
from pie_jax.graph.prune import prune_graph
from pie_jax.graph.run.pair import load_texts
from pie_jax.graph.run.result import GraphResult, check_shares, finish, write
from pie_jax.graph.types import Target
from pie_jax.models.loader import LanguageModel
from pie_jax.models.tokenizer import Tokenizer
from pie_jax.prune.results.resumable_folder import load_result, scope_of
from pie_jax.prune.task_circuits.results import SCOPE, TaskResult, load_task_result
from pie_jax.report.stage import run_pairs
from pie_jax.tasks import Pair
from pie_jax.tasks.encode import MAX_TOKENS
from pie_jax.transcoders.store import Transcoder

# Where a task's graph is written, in the run's folder.
OUT = "graph-task"
# What a task's graph ends in: of each prompt its own tokens.
_ENDS = {True: "target − distractor", False: "target"}


@dataclass(frozen=True)
class Task:
    """A run's prompts, features and weights."""

    model: LanguageModel
    transcoder: Transcoder
    pairs: list[Pair]
    features: list[Key]
    about: str


def task_graph(
    folder: str | Path,
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
    progress: Callable[[int, int], None] | None = None,
) -> GraphResult:
    """Return the mean of the graphs of a finished run's first `prompts` prompts, and write its page
    and files into `graph-task` in the run's folder, or into `out`.

    Of a run with `--scope task` the features are the task's circuit, of another one the `features`
    that are kept in most prompts; in each prompt every occurrence of them is a node. Positions are
    `merged` by "role", "token" or "position" (`pie_jax.graph.merged.columns`); nodes that become
    one write, and are read, together. An effect is the mean over prompts, 0 where an end is not
    there; notes hold the share of `prompts` in which it is, and its `mean` and `spread` (standard
    deviation) over these. Each prompt ends in its own target minus distractor, or in its target.
    `changes` takes graphs of changes. `nodes` and `edges` prune the mean, `progress` is called with
    finished prompts and all.

    Raises `InputError` where the run, its pairs or weights are not found, pairs without a target,
    and where no feature is active.
    """
    check_shares(nodes, edges, 0)
    for name, number in (("--features", features), ("--prompts", prompts)):
        if number < 1:
            raise InputError(f"{name} {number}: must be at least 1.")
    folder = Path(folder)
    task = open_task(folder, method, budget, features, prompts, pairs, model, transcoder)
    graph, notes = merge(*prompt_graphs(task, merged, changes, progress))
    if graph.feature_count == 0:
        raise InputError(f"{folder}: none of the task's features is active in its prompts.")
    pruned = prune_graph(graph, nodes, edges)
    keys = set(zip(graph.layer.tolist(), graph.feature.tolist(), strict=True))
    texts = load_texts(folder, keys)
    found = replace(finish(task.model, task.transcoder, graph, pruned, 0, texts), notes=notes)
    page = write(
        found, task.model, task.transcoder,
        folder / OUT if out is None else Path(out),
        title="Changes over a task" if changes else "Graph of a task", prompt=task.about,
        slug="task",
        shares=(nodes, edges),
    )  # fmt: skip
    return replace(found, page=page)


def open_task(
    folder: Path,
    method: str | None,
    budget: int | None,
    features: int,
    prompts: int,
    pairs: str | Path | None,
    model: LanguageModel | str | None,
    transcoder: Transcoder | str | None,
) -> Task:
    """Return what a run says of its task. Raises `InputError` as `task_graph` does."""
    scope = scope_of(folder)
    result: Any = load_task_result(folder) if scope == SCOPE else load_result(folder)
    found = run_pairs(folder, pairs)[:prompts]
    if any(pair.target is None for pair in found):
        raise InputError(
            "graph --task: a pair has no target, so that prompts have no end in common; give pairs "
            "with targets."
        )
    if scope == SCOPE:
        keys, name = _task_features(result, method, budget)
    else:
        keys = [
            (one.layer, one.feature) for one in kept_features(result, method, budget)[:features]
        ]
        name = f"the {len(keys)} features that are kept most often"
    language_model, clt = load_weights(result, model, transcoder)
    about = f"{len(found)} prompts: {name}"
    return Task(language_model, clt, found, keys, about)


def _task_features(
    result: TaskResult, method: str | None, budget: int | None
) -> tuple[list[Key], str]:
    rows = result.summary()
    method = rows[0].method if method is None else method
    budgets = sorted(row.budget for row in rows if row.method == method)
    if not budgets:
        known = ", ".join(dict.fromkeys(row.method for row in rows))
        raise InputError(f"--method `{method}` is not in this run; it has {known}.")
    budget = budgets[(len(budgets) - 1) // 2] if budget is None else budget
    if budget not in budgets:
        raise InputError(
            f"--budget {budget} is not in this run; it has {', '.join(map(str, budgets))}."
        )
    return result.features(method, budget), f"the task's circuit, {method}, K = {budget}"


def prompt_graphs(
    task: Task, merged: str, changes: bool, progress: Callable[[int, int], None] | None = None
) -> tuple[list[Named], tuple[Target, ...]]:
    """Return a graph of every prompt, with the names of its positions, and the common target."""
    if merged not in MERGES:
        raise InputError(f"--merge `{merged}`: is not one of {', '.join(MERGES)}.")
    tokenizer = task.model.tokenizer
    both = all(pair.distractor is not None for pair in task.pairs)
    prompts = [_Prompt.of(tokenizer, pair) for pair in task.pairs]
    if changes and any(one.corrupted is None for one in prompts):
        raise InputError("--changes: a pair has no corrupted prompt; leave --changes out.")
    graphs = attribute_many(
        task.model, task.transcoder, [one.tokens for one in prompts],
        corrupted=[one.corrupted or [] for one in prompts] if changes else None,
        targets=[one.targets(both) for one in prompts], features=task.features, progress=progress,
    )  # fmt: skip
    weight = sum(graph.targets[0].probability for graph in graphs) / len(graphs)
    named = [
        Named(graph, columns(tokenizer, one.tokens, merged,
                             answers=one.answers, corrupted=one.corrupted))
        for graph, one in zip(graphs, prompts, strict=True)
    ]  # fmt: skip
    return named, (Target(_ENDS[both], None, weight),)


class _Prompt(NamedTuple):
    """A pair's tokens, those of its first corrupted prompt, and its target and distractor."""

    tokens: list[int]
    corrupted: list[int] | None
    answers: tuple[int | None, int | None]

    @classmethod
    def of(cls, tokenizer: Tokenizer, pair: Pair) -> _Prompt:
        """Read a pair of texts."""
        other = tokenizer.encode(pair.corrupted[0])[:MAX_TOKENS] if pair.corrupted else None
        target, distractor = (
            None if text is None else tokenizer.answer_id(text)
            for text in (pair.target, pair.distractor)
        )
        return cls(tokenizer.encode(pair.clean)[:MAX_TOKENS], other, (target, distractor))

    def targets(self, both: bool) -> Any:
        """Return what its graph ends in: the difference of both answers, or the target."""
        return self.answers if both else [self.answers[0]]
