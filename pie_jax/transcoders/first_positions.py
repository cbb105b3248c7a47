"""Positions at the start of a prompt where no features are looked for, as they are outliers.

BOS everywhere. In every chat of Gemma 3 the three tokens after it too: the prefix is the same in
all prompts that the model was tuned on, and its streams are far larger than any later ones.
Which prompts are chats is told by their tokens, as config.json says nothing of it.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from pie_jax.models.loader import LanguageModel
from pie_jax.models.tokenizer import Tokenizer
from pie_jax.transcoders.modules import ZEROED_POSITIONS

_CHAT = "<start_of_turn>user\n"
_CHAT_TOKENS = 4
_FAMILY = "gemma3_text"


def zeroed_positions(
    model: LanguageModel, prompts: Int[np.ndarray, "B T"]
) -> Int[np.ndarray, " B"]:
    """Return how many positions of each prompt, from the first on, have no features."""
    zeroed = np.full(len(prompts), ZEROED_POSITIONS, np.int32)
    prefix = _chat_prefix(model.tokenizer) if model.config.family == _FAMILY else None
    if prefix is not None and prompts.shape[1] >= _CHAT_TOKENS:
        zeroed[(prompts[:, :_CHAT_TOKENS] == prefix).all(axis=1)] = _CHAT_TOKENS
    return zeroed


def _chat_prefix(tokenizer: Tokenizer) -> list[int] | None:
    """Return the ids of `<bos><start_of_turn>user\\n`, None without such tokens."""
    first = tokenizer.first_token()
    ids = [] if first is None else tokenizer.encode(first.token + _CHAT)
    return ids if len(ids) == _CHAT_TOKENS else None
