"""A feature store's record as examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pie_jax.features.examples.assemble import DECILES, decile_of
from pie_jax.features.examples.hashing import feature_seeds, mix
from pie_jax.features.records import FeatureExamples, FeatureKey, Window
from pie_jax.features.texts import TokenText

# Stores keep BOS as text, with an activation that is an outlier.
_BOS = frozenset({"<bos>", "<s>", "<|begin_of_text|>", "<|endoftext|>", "<|im_start|>"})


@dataclass(frozen=True)
class StoreExamples:
    """A feature as a store describes it. The windows' `tokens` [T] are strings in place of ids.

    `quantiles` are the store's groups by name, `windows` all distinct windows in order of
    appearance; `frequency` is the store's own, None where it gives none.
    """

    key: FeatureKey
    windows: tuple[Window, ...]
    quantiles: dict[str, tuple[int, ...]]
    promoted: tuple[str, ...]
    suppressed: tuple[str, ...]
    minimum: float | None
    maximum: float
    frequency: float | None

    def as_examples(self, *, top: int = 50, seed: int = 0) -> FeatureExamples:
        """Return the same in the form of a corpus pass, its windows split by the feature's seed.

        What a store does not tell is empty: no tokens were counted (`frequency` is None there), no
        histogram, no neighbours. Windows that never fire count as non-activating.
        """
        active = [window for window in self.windows if window.maximum > 0]
        silent = [window for window in self.windows if window.maximum <= 0]
        groups: list[list[Window]] = [[] for _ in range(DECILES)]
        tenths = decile_of(np.array([window.maximum for window in active]), self.maximum)
        for window, tenth in zip(active, tenths.tolist(), strict=True):
            groups[tenth].append(window)
        dealt: list[int] = []
        own = feature_seeds([self.key], seed)
        for group in reversed(groups):
            index = np.array([window.index for window in group], np.uint64)
            dealt += [group[place].index for place in np.argsort(mix(mix(index) ^ own))]
        quiet = [window.index for window in silent]
        ranked = sorted(active, key=lambda window: (-window.maximum, window.index))
        return FeatureExamples(
            key=self.key,
            tokens_seen=0,
            tokens_active=0,
            maximum=self.maximum,
            histogram=np.zeros(0, np.int64),
            top=tuple(ranked[:top]),
            deciles=tuple(map(tuple, groups)),
            inactive=tuple(silent),
            neighbours=(),
            for_explaining=frozenset(dealt[::2] + quiet[5::6]),
            for_scoring=frozenset(dealt[1::2]) | (frozenset(quiet) - frozenset(quiet[5::6])),
        )


def store_text(window: Window) -> TokenText:
    """Return a store's window without its BOS."""
    values = tuple(float(value) for value in window.activations[1:])
    return TokenText(tuple(window.tokens[1:].tolist()), values)


def parse_record(key: FeatureKey, data: Any) -> StoreExamples:
    """Read a record. Raises `ValueError`, `KeyError`, `TypeError` or `AttributeError` for a broken
    one."""
    seen: dict[tuple[str, ...], Window] = {}
    quantiles: dict[str, tuple[int, ...]] = {}
    for group in data["examples_quantiles"]:
        indices = []
        for example in group["examples"]:
            window = _window(example, len(seen))
            # Groups overlap; a window must not be both explained from and scored on.
            indices.append(seen.setdefault(tuple(window.tokens), window).index)
        quantiles[str(group["quantile_name"])] = tuple(dict.fromkeys(indices))
    windows = tuple(seen.values())
    highest = max((window.maximum for window in windows), default=0.0)
    return StoreExamples(
        key=key,
        windows=windows,
        quantiles=quantiles,
        promoted=_names(data.get("top_logits")),
        suppressed=_names(data.get("bottom_logits")),
        minimum=_number(data.get("act_min")),
        maximum=max(_number(data.get("act_max")) or 0.0, highest),
        frequency=_number(data.get("activation_frequency")),
    )


def _window(example: Any, index: int) -> Window:
    tokens = example["tokens"]
    values = np.array(example["tokens_acts_list"], np.float32)
    if not all(isinstance(token, str) for token in tokens) or values.shape != (len(tokens),):
        raise ValueError("tokens and activations do not match")
    if not np.isfinite(values).all():
        raise ValueError("activations are not finite")
    if tokens[:1] == [] or tokens[0] not in _BOS:
        tokens, values = ["<bos>", *tokens], np.r_[np.float32(0), values]
    names = np.empty(len(tokens), object)
    names[:] = tokens
    counted = np.array([token not in _BOS for token in tokens], bool)
    return Window(index, names, np.where(counted, np.maximum(values, 0), 0).astype(np.float32))


def _names(values: Any) -> tuple[str, ...]:
    # Some stores give names, others pairs of name and effect.
    return tuple(str(v[0] if isinstance(v, (list, tuple)) else v) for v in values or ())


def _number(value: Any) -> float | None:
    if value is None:
        return None
    number = float(value)
    if not np.isfinite(number):
        raise ValueError("a figure is not finite")
    return number
