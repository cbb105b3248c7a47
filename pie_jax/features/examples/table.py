"""examples.parquet: one row a feature, with its windows; documented in docs/examples.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pie_jax.errors import InputError
from pie_jax.features.records import FeatureExamples, FeatureKey, Window
from pie_jax.files.atomic import replacing

EXAMPLES = "examples.parquet"
_ROWS = 64
_WINDOW = pa.struct(
    [
        ("index", pa.int64()),
        # explaining, scoring, or null for a window that is shown only
        ("role", pa.string()),
        ("top", pa.bool_()),
        # 1 to 10; null outside the groups
        ("decile", pa.int8()),
        ("tokens", pa.list_(pa.int32())),
        # null where the feature never fires
        ("activations", pa.list_(pa.float32())),
    ]
)
_SCHEMA = pa.schema(
    [
        ("layer", pa.int32()),
        ("feature", pa.int32()),
        ("tokens_seen", pa.int64()),
        ("tokens_active", pa.int64()),
        ("maximum", pa.float32()),
        ("histogram", pa.list_(pa.int64())),
        ("neighbours", pa.list_(pa.struct([("feature", pa.int32()), ("cosine", pa.float32())]))),
        ("windows", pa.list_(_WINDOW)),
    ]
)


def save_examples(folder: Path, examples: Sequence[FeatureExamples]) -> None:
    """Write examples.parquet, whole or not at all."""
    with (
        replacing(folder / EXAMPLES) as temporary,
        pq.ParquetWriter(temporary, _SCHEMA, compression="zstd") as writer,
    ):
        for start in range(0, len(examples), _ROWS):
            rows = [_row(one) for one in examples[start : start + _ROWS]]
            writer.write_table(pa.Table.from_pylist(rows, _SCHEMA))


def load_examples(
    folder: str | Path, keys: Sequence[FeatureKey] | None = None
) -> list[FeatureExamples]:
    """Read the examples of a results folder: of all features, or of some in their order.

    Raises `InputError` where there are none, or none of a feature that is asked for.
    """
    path = Path(folder) / EXAMPLES
    wanted = None if keys is None else set(keys)
    try:
        found = [
            _feature(row)
            for row in _rows(path)
            if wanted is None or (row["layer"], row["feature"]) in wanted
        ]
    except (OSError, pa.ArrowException, KeyError, TypeError) as error:
        raise InputError(f"{path}: no examples; run `pie-jax examples` first.") from error
    if keys is None:
        return found
    by_key = {one.key: one for one in found}
    for key in keys:
        if key not in by_key:
            raise InputError(
                f"{path}: holds no examples of feature {key[1]} in layer {key[0]}; run `pie-jax "
                "examples` for it."
            )
    return [by_key[FeatureKey(*key)] for key in keys]


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_ROWS):
            yield from batch.to_pylist()


def _row(one: FeatureExamples) -> dict[str, Any]:
    tops = {window.index for window in one.top}
    decile = {w.index: n for n, group in enumerate(one.deciles, start=1) for w in group}
    active = {w.index: w for group in (one.top, *one.deciles) for w in group}

    def role(index: int) -> str | None:
        if index in one.for_explaining:
            return "explaining"
        return "scoring" if index in one.for_scoring else None

    def entry(window: Window, fires: bool) -> dict[str, Any]:
        return {
            "index": window.index,
            "role": role(window.index),
            "top": window.index in tops,
            "decile": decile.get(window.index),
            "tokens": window.tokens,
            "activations": window.activations if fires else None,
        }

    windows = [entry(active[index], True) for index in sorted(active)]
    windows += [entry(window, False) for window in one.inactive]
    return {
        "layer": one.key.layer,
        "feature": one.key.feature,
        "tokens_seen": one.tokens_seen,
        "tokens_active": one.tokens_active,
        "maximum": one.maximum,
        "histogram": one.histogram,
        "neighbours": [{"feature": name, "cosine": value} for name, value in one.neighbours],
        "windows": windows,
    }


def _feature(row: dict[str, Any]) -> FeatureExamples:
    top, inactive = [], []
    deciles: list[list[Window]] = [[] for _ in range(10)]
    roles: dict[str | None, set[int]] = {"explaining": set(), "scoring": set(), None: set()}
    for entry in row["windows"]:
        tokens = np.array(entry["tokens"], np.int32)
        fires = entry["activations"] is not None
        values = np.array(entry["activations"] if fires else [0] * len(tokens), np.float32)
        window = Window(entry["index"], tokens, values)
        roles[entry["role"]].add(window.index)
        if entry["top"]:
            top.append(window)
        if entry["decile"] is not None:
            deciles[entry["decile"] - 1].append(window)
        if not fires:
            inactive.append(window)
    return FeatureExamples(
        key=FeatureKey(row["layer"], row["feature"]),
        tokens_seen=row["tokens_seen"],
        tokens_active=row["tokens_active"],
        maximum=row["maximum"],
        histogram=np.array(row["histogram"], np.int64),
        top=tuple(sorted(top, key=lambda window: (-window.maximum, window.index))),
        deciles=tuple(map(tuple, deciles)),
        inactive=tuple(inactive),
        neighbours=tuple((entry["feature"], entry["cosine"]) for entry in row["neighbours"]),
        for_explaining=frozenset(roles["explaining"]),
        for_scoring=frozenset(roles["scoring"]),
    )
