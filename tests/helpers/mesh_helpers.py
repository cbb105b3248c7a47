"""Results of a run on several devices beside one device's, and what a compiled program sends."""

from __future__ import annotations

import re
from typing import Any

import jax
import numpy as np
from prune_helpers import columns, tiny_pairs

from pie_jax.prune.options import PruneOptions
from pie_jax.prune.results.tables import PruneResult

# Three batches of one shape, the last with seven rows of padding.
PAIRS = tiny_pairs([12] * 17, seed=7)
OPTIONS = PruneOptions(
    methods=("fap", "random"), budgets=(4, 8), batch_size=8, judge_zero_features=True
)
_COLLECTIVES = (
    *("all-reduce", "all-gather", "all-to-all", "reduce-scatter"),
    *("collective-permute", "collective-broadcast"),
)


def collectives(compiled: Any) -> set[str]:
    """Return which collectives a compiled program holds."""
    text = compiled.as_text()
    return {name for name in _COLLECTIVES if re.search(rf"\b{name}\b", text)}


def shard_shares(array: jax.Array) -> set[float]:
    """Return what share of an array each device holds."""
    return {shard.data.size / array.size for shard in array.addressable_shards}


def same_results(ours: PruneResult, single: PruneResult) -> None:
    """Check for equal occurrences and kept sets, and numbers equal to 1e-5 of their column."""
    for name, table in single.tables().items():
        other = ours.tables()[name]
        assert other.schema == table.schema
        expected, found = columns(table), columns(other)
        for column, values in expected.items():
            if values.dtype.kind != "f":
                assert other[column].equals(table[column]), f"{name}.{column}"
                continue
            # Shares of a difference lose as many digits as it does.
            limit = 1e-4 if column in ("faithfulness", "completeness") else 1e-5
            scale = np.abs(values[np.isfinite(values)]).max(initial=0.0)
            np.testing.assert_allclose(
                found[column], values, rtol=0, atol=limit * scale, err_msg=f"{name}.{column}"
            )
