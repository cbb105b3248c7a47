"""The first positions of a prompt hold no occurrences: BOS, and a Gemma-3 chat's whole prefix."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from prune_helpers import WordTokenizer, prepare, tiny_model, tiny_pairs, tiny_transcoder

from pie_jax.models.loader import LanguageModel
from pie_jax.models.tokenizer import Tokenizer
from pie_jax.prune.options import PruneOptions
from pie_jax.tasks import Pair
from pie_jax.transcoders.first_positions import zeroed_positions

CHAT = "<start_of_turn>user\n"
PREFIX = [1, 2, 30, 31]
OPTIONS = PruneOptions(methods=("fap",), budgets=(4,))


class _Chat(WordTokenizer):
    """The words' tokenizer with the two tokens of a turn."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        text = text.replace("w1<", "w1 <").replace(CHAT, "w2 w30 w31 ")
        return super().encode(text, add_special_tokens)


def chat_model(folder: Path, family: str) -> LanguageModel:
    model = tiny_model(folder, family=family)
    return replace(model, tokenizer=Tokenizer(_Chat(), "words", 40))


def pairs(chat: str) -> list[Pair]:
    return [
        replace(one, clean=chat + one.clean, corrupted=tuple(chat + t for t in one.corrupted))
        for one in tiny_pairs([9, 9])
    ]


def test_only_chats_of_gemma3_have_a_prefix(tmp_path: Path):
    prompts = np.array([[*PREFIX, 9, 9], [1, 9, 30, 31, 9, 9], [*PREFIX, 8, 0]], np.int32)
    found = {
        family: zeroed_positions(chat_model(tmp_path, family), prompts).tolist()
        for family in ("gemma3_text", "gemma2", "llama")
    }
    assert found == {"gemma3_text": [4, 1, 4], "gemma2": [1, 1, 1], "llama": [1, 1, 1]}
    # A tokenizer without these tokens, and prompts shorter than the prefix.
    assert zeroed_positions(tiny_model(tmp_path, family="gemma3_text"), prompts).tolist() == [1] * 3
    assert zeroed_positions(chat_model(tmp_path, "gemma3_text"), prompts[:, :3]).tolist() == [1] * 3


@pytest.mark.parametrize(("family", "first"), [("gemma3_text", 4), ("llama", 1)])
def test_pruning_leaves_the_prefix_out(tmp_path: Path, family: str, first: int):
    model = chat_model(tmp_path, family)
    # Corrupted prompts at zero, so that what is active in the shared prefix counts.
    options = replace(OPTIONS, corruption="zero-features")
    found = prepare(model, tiny_transcoder(model), pairs(CHAT), options).occurrences
    assert (found.position[found.valid] >= first).all()
    assert found.position[found.valid].min() == first
