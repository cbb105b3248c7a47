"""The formulas of docs/plan.md against the plan's own."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from pie_jax.models.config import PRESETS
from pie_jax.prune.options import PruneOptions
from pie_jax.prune.plan import memory
from pie_jax.prune.plan.memory import Load, Shapes
from pie_jax.transcoders.config import TranscoderConfig

PAGE = Path(__file__).parents[3] / "docs" / "plan.md"
METHODS = ("fap", "acdc", "staged")
OPTIONS = PruneOptions(methods=METHODS, budgets=(5, 20), judge_zero_features=True)


def formulas() -> dict[str, str]:
    """Return the page's formulas as Python: what stands side by side is multiplied."""
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: _python(text) for name, text in rows if "4 B" in text}


def _python(text: str) -> str:
    parts = re.findall(r"\w+|[()+,]", text.split(";")[0])
    out = parts[0]
    for before, here in pairwise(parts):
        adjacent = re.match(r"[\w)]", before) and re.match(r"[\w(]", here)
        out += ("*" if adjacent and before not in ("max", "min") else "") + here
    return out


@pytest.mark.parametrize("preset", ["gpt2", "llama-3.2-1b"])
@pytest.mark.parametrize("load", [Load(8, 1, 32, 30, 16, 64.0), Load(3, 4, 64, 64, 64, 5.0)])
def test_the_page_has_the_formulas_of_the_code(preset: str, load: Load) -> None:
    config = PRESETS[preset]
    transcoder = TranscoderConfig(config.num_layers, config.d_model, 16384, "relu")
    shapes = Shapes(config, transcoder, 4, 4, 2)
    whole = memory.replace(load, versions=1, window=load.tokens)
    tables = config.num_layers * memory.blocks(shapes, load)
    letters = {
        "B": load.batch,
        "M": load.versions,
        "T": load.tokens,
        "W": load.window,
        "L": config.num_layers,
        "D": config.d_model,
        "H": config.num_heads,
        "G": config.num_kv_heads,
        "K": config.head_dim,
        "I": config.d_mlp,
        "V": config.vocab_size,
        "F": transcoder.features,
        "N": memory.occurrences(shapes, load),
        "S": memory.coarse(tables, memory._LEAST_BLOCKS, 2) * memory.TILE,
        "k": 20,
        "block": OPTIONS.acdc.block,
        "c": memory.circuits_at_once(shapes, load, OPTIONS, runs=2),
        "z": memory.circuits_at_once(shapes, whole, OPTIONS, runs=1),
        "max": max,
        "min": min,
    }
    page = {name: eval(text, {}, letters) for name, text in formulas().items()}
    ours = {**memory.batch_arrays(shapes, load), **memory.working_bytes(shapes, load, OPTIONS)}
    ours |= {
        "writes in total": memory.total_writes_bytes(shapes, load),
        "both runs, encoding": memory.reading_bytes(shapes, load),
        "`acdc`'s tests": ours.pop("acdc's tests"),
    }
    del ours["decoder rows"], ours["streams of removals"]
    page["gradients and scores"] *= load.versions  # of `staged`
    assert page == ours
