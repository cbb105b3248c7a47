"""PIE for JAX: prune, interpret and evaluate the features behind a language model's behaviour.

>>> import pie_jax
>>> model = pie_jax.load_model("demo")
>>> clt = pie_jax.load_transcoder("demo")
>>> pairs = pie_jax.load_pairs("pairs.jsonl")  # doctest: +SKIP
>>> result = pie_jax.prune(model, clt, pairs, methods=("fap",), budgets=(10,))  # doctest: +SKIP

Start with `load_model`, `load_transcoder`, `load_pairs` and `prune` (`prune_pairs` is the same as a
plain function, whose signature editors show); `examples_run`, `interpret_run`, `evaluate_run`,
`graph_run` and `report_run` continue in the folder that `prune(out=...)` wrote.
Names are loaded when they are first used: importing the package touches no device.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pie_jax.errors import InputError, PieError

if TYPE_CHECKING:  # what editors show; at run time names are loaded when they are first used
    from pie_jax.check.run import check_transcoder as check_transcoder
    from pie_jax.devices.mesh import adopted_mesh as adopted_mesh
    from pie_jax.devices.mesh import make_mesh as make_mesh
    from pie_jax.evaluate.stage import evaluate_run as evaluate_run
    from pie_jax.features.groups import Chosen as Chosen
    from pie_jax.graph.attribute import attribute as attribution_graph  # noqa: F401
    from pie_jax.graph.attribute import attribute_many as attribution_graphs  # noqa: F401
    from pie_jax.interpret.stage import examples_run as examples_run
    from pie_jax.interpret.stage import interpret_run as interpret_run
    from pie_jax.interpret.stage import store_examples_run as store_examples_run
    from pie_jax.models.loader import LanguageModel as LanguageModel
    from pie_jax.models.loader import load_model as load_model
    from pie_jax.prune.batch.metrics import own_metric as own_metric
    from pie_jax.prune.options import PruneOptions as PruneOptions
    from pie_jax.prune.results.resumable_folder import load_result as load_result
    from pie_jax.prune.results.tables import PruneResult as PruneResult
    from pie_jax.prune.run import prune as prune_pairs  # noqa: F401
    from pie_jax.prune.task_circuits.scope import prune_task as prune_task
    from pie_jax.report.stage import report_run as report_run
    from pie_jax.tasks import Pair as Pair
    from pie_jax.tasks import TokenPair as TokenPair
    from pie_jax.tasks import read_pairs as load_pairs  # noqa: F401
    from pie_jax.transcoders.conversion import convert as convert
    from pie_jax.transcoders.loader import load_transcoder as load_transcoder
    from pie_jax.transcoders.store import Transcoder as Transcoder
    from pie_jax.transcoders.store import transcoder_in_memory as transcoder_in_memory

# Where each public name lives; `prune` is a callable package.
_WHERE = {
    "load_model": "pie_jax.models.loader",
    "LanguageModel": "pie_jax.models.loader",
    "make_mesh": "pie_jax.devices.mesh",
    "adopted_mesh": "pie_jax.devices.mesh",
    "load_transcoder": "pie_jax.transcoders.loader",
    "Transcoder": "pie_jax.transcoders.store",
    "transcoder_in_memory": "pie_jax.transcoders.store",
    "own_metric": "pie_jax.prune.batch.metrics",
    "load_pairs": "pie_jax.tasks",
    "Pair": "pie_jax.tasks",
    "prompt_pair": "pie_jax.tasks.prompt",
    "TokenPair": "pie_jax.tasks",
    "PruneOptions": "pie_jax.prune.options",
    "prune_pairs": "pie_jax.prune.run",
    "PruneResult": "pie_jax.prune.results.tables",
    "prune_task": "pie_jax.prune.task_circuits.scope",
    "TaskResult": "pie_jax.prune.task_circuits.results",
    "load_task_result": "pie_jax.prune.task_circuits.results",
    "attribution_graph": "pie_jax.graph.attribute",
    "attribution_graphs": "pie_jax.graph.attribute",
    "graph_prompt": "pie_jax.graph.run.prompt",
    "graph_run": "pie_jax.graph.run.pair",
    "task_graph": "pie_jax.graph.run.task",
    "prompt_difference": "pie_jax.graph.run.versus",
    "task_difference": "pie_jax.graph.run.versus",
    "convert": "pie_jax.transcoders.conversion",
    "check_transcoder": "pie_jax.check.run",
    "load_result": "pie_jax.prune.results.resumable_folder",
    "Chosen": "pie_jax.features.groups",
    "examples_run": "pie_jax.interpret.stage",
    "store_examples_run": "pie_jax.interpret.stage",
    "interpret_run": "pie_jax.interpret.stage",
    "estimate_interpretation": "pie_jax.interpret.stage",
    "evaluate_run": "pie_jax.evaluate.stage",
    "estimate_evaluation": "pie_jax.evaluate.stage",
    "report_run": "pie_jax.report.stage",
    "Change": "pie_jax.intervene.changes",
    "generate": "pie_jax.intervene.generation",
    "make_roles": "pie_jax.llm.roles",
}
# Public names of what is called otherwise where it lives.
_OTHERWISE = {
    "load_pairs": "read_pairs",
    "attribution_graph": "attribute",
    "attribution_graphs": "attribute_many",
    "prune_pairs": "prune",
}
_PACKAGES = (
    *("prune", "arrays", "kernels", "models", "transcoders", "tasks", "report"),
    *("interpret", "evaluate", "intervene", "llm"),
)

__all__ = ["InputError", "PieError", *_WHERE, *_PACKAGES]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        module = importlib.import_module(_WHERE[name])
        return getattr(module, _OTHERWISE.get(name, name))
    if name in _PACKAGES:
        return importlib.import_module(f"pie_jax.{name}")
    raise AttributeError(f"module 'pie_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
