"""The demo's tokenizer: byte-level BPE in which every task word is one token."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from pie_jax.errors import PieError

VOCABULARY = 2048
BOS, EOS = "<s>", "</s>"
LONGEST = 512  # positions of the demo model

# Words outweigh the text, so that their merges come first whatever the text holds.
_WORD_WEIGHT = 3_000


def train_tokenizer(
    texts: Iterable[str], words: Iterable[str], vocab_size: int = VOCABULARY
) -> Tokenizer:
    """Train on `texts`, with each of `words` (leading space included) as one token.

    Raises `PieError` where the vocabulary is too small for the words.
    """
    words = sorted(set(words))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, *_weighted(words)], trainer)
    # BOS is put in front here as in Llama's own tokenizer.
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, 0)]
    )
    _require_single(tokenizer, words)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json as transformers reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "model_max_length": LONGEST,
        "clean_up_tokenization_spaces": False,
    }
    text = json.dumps(config, indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def _weighted(words: list[str]) -> list[str]:
    return [word * _WORD_WEIGHT for word in words]


def _require_single(tokenizer: Tokenizer, words: Iterable[str]) -> None:
    split = [w for w in words if len(tokenizer.encode(w, add_special_tokens=False).ids) != 1]
    if split:
        raise PieError(
            f"{len(split)} task words are not one token in a vocabulary of "
            f"{tokenizer.get_vocab_size()}, the first is {split[0]!r}; use a larger vocabulary."
        )
