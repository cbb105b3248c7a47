"""The whole pruning step lowers for TPUs and GPUs, with no device at hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import pytest
from prune_helpers import tiny_model, tiny_pairs, tiny_transcoder

import pie_jax
from pie_jax.prune import step
from pie_jax.prune.batch import occurrences
from pie_jax.prune.engine import evaluator as inputs
from pie_jax.prune.engine.removals import sharded as shard_cones
from pie_jax.prune.methods import METHODS, acdc, fap_hvp, integrated_gradients
from pie_jax.prune.options import AcdcOptions, PruneOptions, SearchOptions, SynergyOptions
from pie_jax.prune.search import climb as climbing
from pie_jax.prune.search import path, space
from pie_jax.prune.search import shared as found

# Every compiled function of the step, where it is called from.
CALLED: dict[str, ModuleType] = {
    "read_windows": step,
    "_union": occurrences,
    "metric_gradients": inputs,
    "attribute": inputs,
    "total_writes": inputs,
    "cone_metrics": shard_cones,
    "circuit_behaviour": inputs,
    "_windows": space,
    "_gather": space,
    "grow": found,
    "learn": found,
    "_kls": climbing,
    "_path": path,
    "scores_at": integrated_gradients,
    "interactions": fap_hvp,
    "sweep": acdc,
}


def abstract(tree: Any, stored: str) -> Any:
    """Return shapes and dtypes in place of arrays, those of weights `stored`; what is static
    stays."""

    def one(x: Any) -> Any:
        if not hasattr(x, "shape"):
            return x
        dtype = stored if x.dtype == jax.numpy.bfloat16 else x.dtype
        return jax.ShapeDtypeStruct(x.shape, dtype)

    return jax.tree.map(one, tree)


@pytest.mark.slow
def test_the_whole_step_lowers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With the arguments of a real run of bfloat16 weights, and with theirs in float32; on a TPU
    nothing of it needs the host."""
    seen: dict[str, tuple[Any, tuple, dict]] = {}

    def listen(name: str, module: ModuleType) -> None:
        function = getattr(module, name)

        def called(*args: Any, **kwargs: Any) -> Any:
            seen[name] = (function, args, kwargs)
            return function(*args, **kwargs)

        called.ahead = getattr(function, "ahead", None)  # type: ignore[attr-defined]
        monkeypatch.setattr(module, name, called)

    for name, module in CALLED.items():
        listen(name, module)
    model = tiny_model(tmp_path, gemma=True)
    cast = jax.tree.map(lambda x: x.astype("bfloat16"), model.transformer)
    model = replace(model, transformer=cast)
    options = PruneOptions(
        methods=tuple(METHODS),
        budgets=(3, 6),
        synergy=SynergyOptions(3.0, 50.0, 6, 4, 2),
        acdc=AcdcOptions(256, 2),
        batch_size=2,
    )
    transcoder = tiny_transcoder(model, jump=True, dtype=jax.numpy.dtype("bfloat16"))
    pie_jax.prune(model, transcoder, tiny_pairs([12, 10]), options)
    shrunk = replace(
        options, methods=("staged",), search=SearchOptions(start="everything", stages=2)
    )
    pie_jax.prune(model, transcoder, tiny_pairs([12, 10]), shrunk)
    assert set(seen) == set(CALLED)
    for name, (function, args, kwargs) in seen.items():
        for stored in ("bfloat16", "float32"):
            traced = function.trace(*abstract(args, stored), **abstract(kwargs, stored))
            for platform in ("tpu", "cuda"):
                text = traced.lower(lowering_platforms=(platform,)).as_text()
                assert "callback" not in text, name
                assert ("bf16" in text) <= (stored == "bfloat16"), name
