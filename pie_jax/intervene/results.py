"""What interventions return.

Shapes: B prompts, S lists of changes, T positions, N new tokens, V vocabulary, K targets. B and S
are absent where one prompt, or one list, was given by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class Intervened:
    """What changes do to prompts.

    `tokens` holds the ids of each prompt, BOS in front. `before` [B, V] and `after` [B, S, V] are
    logits at the last position, or [B, T, V] and [B, S, T, V] at all, NaN beyond a shorter prompt's
    end. `target_ids` [K] and `target_changes` [B, S, K]: by how much each target's logit at the
    last position rises against the mean over the vocabulary, before a final softcap, as an
    attribution graph counts it.

    `changed` has a row for each prompt, list, layer, position and feature that was changed, with
    its `baseline` and the `value` that it was given. `activations`, None unless asked for, has such
    rows of any features with the activation `before` and `after`: what the encoder makes of what it
    reads in either run. For a changed feature that is what its activation would be, not the value.
    `pre_before` and `pre_after`, where asked for, are the same before the activation function.
    Prompts and lists are counted from 0, also where there is only one.
    """

    freeze: str
    tokens: tuple[tuple[int, ...], ...]
    before: np.ndarray
    after: np.ndarray
    target_ids: tuple[int, ...]
    target_changes: np.ndarray
    changed: pa.Table
    activations: pa.Table | None


@dataclass(frozen=True)
class Generated:
    """Continuations of prompts under changes.

    `texts` and `ids` are lists by prompt of lists by changes, each level absent where one was given
    by itself: one prompt with one list of changes has a string and a list of ids. They end before
    the first special token. Row i of `logits` [B, S, N, V] is what token i was chosen from, NaN
    after the special token that ends a text.
    """

    texts: Any
    ids: Any
    logits: np.ndarray
