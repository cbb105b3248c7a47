"""promoted.parquet: the tokens that each feature's decoders promote and suppress."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pie_jax.errors import InputError
from pie_jax.features.promoted import PromotedTokens, TokenEffect, promoted_tokens
from pie_jax.features.records import FeatureKey
from pie_jax.files.atomic import replacing
from pie_jax.models.loader import LanguageModel
from pie_jax.transcoders.store import Transcoder

PROMOTED = "promoted.parquet"
# Features whose decoder rows are in memory at once.
_FEATURES = 64
_SCHEMA = pa.schema(
    [
        ("layer", pa.int32()),
        ("feature", pa.int32()),
        ("target", pa.int32()),
        ("side", pa.string()),
        ("rank", pa.int32()),
        ("token", pa.int32()),
        ("text", pa.string()),
        ("effect", pa.float32()),
    ]
)


def save_promoted(
    folder: Path,
    model: LanguageModel,
    transcoder: Transcoder,
    keys: Sequence[FeatureKey],
    top: int = 10,
) -> None:
    """Write promoted.parquet: per target layer, and with a null target summed over all."""
    with (
        replacing(folder / PROMOTED) as temporary,
        pq.ParquetWriter(temporary, _SCHEMA, compression="zstd") as writer,
    ):
        for start in range(0, len(keys), _FEATURES):
            part = keys[start : start + _FEATURES]
            found = promoted_tokens(model, transcoder, part, top)
            found += promoted_tokens(model, transcoder, part, top, per_target=True)
            rows = [row for one in found for row in _rows(one)]
            writer.write_table(pa.Table.from_pylist(rows, _SCHEMA))


def load_promoted(folder: str | Path) -> dict[FeatureKey, list[PromotedTokens]]:
    """Read promoted.parquet: for each feature the sum first, then target by target.

    Raises `InputError` where there is none.
    """
    path = Path(folder) / PROMOTED
    sides: dict[tuple[int, int, int | None], dict[str, list[TokenEffect]]] = {}
    try:
        for row in pq.read_table(path).to_pylist():
            key = (row["layer"], row["feature"], row["target"])
            effect = TokenEffect(row["token"], row["text"], row["effect"])
            sides.setdefault(key, {"promoted": [], "suppressed": []})[row["side"]].append(effect)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise InputError(f"{path}: no promoted tokens; run `pie-jax examples` first.") from error
    out: dict[FeatureKey, list[PromotedTokens]] = {}
    for key, found in sides.items():
        both = (tuple(found[side]) for side in ("promoted", "suppressed"))
        out.setdefault(FeatureKey(*key[:2]), []).append(PromotedTokens(*key, *both))
    return out


def _rows(one: PromotedTokens) -> Iterator[dict[str, Any]]:
    for side, effects in (("promoted", one.promoted), ("suppressed", one.suppressed)):
        for rank, (token, text, effect) in enumerate(effects, start=1):
            yield {
                "layer": one.layer,
                "feature": one.feature,
                "target": one.target,
                "side": side,
                "rank": rank,
                "token": token,
                "text": text,
                "effect": effect,
            }
