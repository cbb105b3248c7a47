"""A feature store's record as examples.

Shapes: T positions, E windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pie_jax.features.examples.assemble import DECILES, decile_of, split_active, split_inactive
from pie_jax.features.examples.hashing import content_hash, feature_seeds, mix
from pie_jax.features.examples.options import ExampleOptions
from pie_jax.features.records import FeatureExamples, FeatureKey, Window
from pie_jax.features.texts import TokenText

# Stores keep BOS as text, with an activation that is an outlier.
_BOS = frozenset({"<bos>", "<s>", "<|begin_of_text|>", "<|endoftext|>", "<|im_start|>"})


@dataclass(frozen=True)
class StoreRecord:
    """A feature as a store describes it: distinct `texts` without BOS, in order of appearance, and
    its highest activation."""

    key: FeatureKey
    texts: tuple[TokenText, ...]
    maximum: float


def parse_record(key: FeatureKey, data: Any) -> StoreRecord:
    """Read a record. Raises `ValueError`, `KeyError`, `TypeError` or `AttributeError` for a broken
    one."""
    seen: dict[tuple[str, ...], TokenText] = {}
    for group in data["examples_quantiles"]:
        for example in group["examples"]:
            text = _text(example)
            # Groups overlap; a window must not be both explained from and scored on.
            seen.setdefault(text.tokens, text)
    highest = max((text.maximum for text in seen.values()), default=0.0)
    stated = data.get("act_max")
    maximum = max(0.0 if stated is None else float(stated), highest)
    if not np.isfinite(maximum):
        raise ValueError("the largest activation is not finite")
    return StoreRecord(key, tuple(seen.values()), maximum)


def _text(example: Any) -> TokenText:
    tokens = example["tokens"]
    values = np.array(example["tokens_acts_list"], np.float32)
    if not all(isinstance(token, str) for token in tokens) or values.shape != (len(tokens),):
        raise ValueError("tokens and activations do not match")
    if not np.isfinite(values).all():
        raise ValueError("activations are not finite")
    counted = np.array([token not in _BOS for token in tokens], bool)
    values = np.where(counted, np.maximum(values, 0), 0)
    start = int(tokens[:1] != [] and tokens[0] in _BOS)
    return TokenText(tuple(tokens[start:]), tuple(values[start:].tolist()))


def as_window(ids: Sequence[int], activations: Sequence[float]) -> Window:
    """Return a window of ids with BOS in front; its index is a hash of them."""
    tokens = np.array(ids, np.int32)
    index = int(content_hash(tokens[None], np.array([len(ids)]))[0] >> np.uint64(1))
    return Window(index, tokens, np.array([0.0, *activations], np.float32))


def as_examples(
    key: FeatureKey,
    maximum: float,
    windows: Sequence[Window],
    inactive: Sequence[Window],
    neighbours: tuple[tuple[int, float], ...],
    options: ExampleOptions,
) -> FeatureExamples:
    """Return activating `windows` and `inactive` ones in the form of a corpus pass, drawn and dealt
    out by the feature's seed.

    What a store does not tell is empty: no tokens were counted (`frequency` is None) and there is
    no histogram.
    """
    own = feature_seeds([key], options.seed)[0]

    def priority(some: Sequence[Window]) -> np.ndarray:
        return mix(np.array([window.index for window in some], np.uint64) ^ own)

    ranked = sorted(windows, key=lambda window: (-window.maximum, window.index))
    top = ranked[: options.top]
    tenth = decile_of(np.array([window.maximum for window in windows]), maximum)
    order = np.argsort(priority(windows))
    groups = [
        [windows[at] for at in order if tenth[at] == number][: options.per_decile]
        for number in range(DECILES)
    ]
    used = list({one.index: one for one in (*top, *(w for g in groups for w in g))}.values())
    quiet = [inactive[at] for at in np.argsort(priority(inactive))[: options.inactive]]
    decile = decile_of(np.array([window.maximum for window in used]), maximum)
    explaining, scoring = split_active(priority(used), _indices(used), decile)
    contrast, held_out = split_inactive(priority(quiet), _indices(quiet))
    return FeatureExamples(
        key=key,
        tokens_seen=0,
        tokens_active=0,
        maximum=maximum,
        histogram=np.zeros(0, np.int64),
        top=tuple(top),
        deciles=tuple(tuple(sorted(group, key=lambda one: one.index)) for group in groups),
        inactive=tuple(sorted(quiet, key=lambda one: one.index)),
        neighbours=neighbours,
        for_explaining=explaining | contrast,
        for_scoring=scoring | held_out,
    )


def _indices(windows: Sequence[Window]) -> np.ndarray:
    return np.array([window.index for window in windows], np.int64)
