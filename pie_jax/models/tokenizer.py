"""Tokenizers through transformers, with PIE's rule for the first token."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pie_jax.errors import InputError


class Tokenizer:
    """Text to token ids and back; BOS is put in front when the first token is not special."""

    def __init__(self, inner: Any, source: str, vocab_size: int | None = None):
        self._inner = inner
        self.source = source
        self._special = frozenset(inner.all_special_ids)
        self._texts: dict[int, str] = {}
        if len(inner) > (vocab_size or len(inner)):
            raise InputError(
                f"{source}: the tokenizer has {len(inner)} tokens, but the model only "
                f"{vocab_size}; they do not belong together."
            )

    def encode(self, text: str) -> list[int]:
        """Return a prompt's ids, BOS in front."""
        ids = list(self._inner.encode(text))
        if ids and ids[0] in self._special:
            return ids
        bos = self._inner.bos_token_id
        if bos is None:
            raise InputError(f"{self.source}: the tokenizer has no BOS token, which PIE needs.")
        return [bos, *ids]

    def answer_id(self, text: str) -> int | None:
        """Return the id of an answer that is exactly one token, else None."""
        ids = self._inner.encode(text, add_special_tokens=False)
        return ids[0] if len(ids) == 1 else None

    def token(self, index: int) -> str:
        """Return one id as text."""
        text = self._texts.get(index)
        if text is None:
            text = self._texts[index] = self._inner.decode([int(index)])
        return text

    def decode(self, ids: Sequence[int]) -> str:
        """Return ids as text; characters spread over several of them are whole."""
        return self._inner.decode([int(index) for index in ids])

    def special_ids(self) -> frozenset[int]:
        """Return the ids of BOS, EOS, padding and the like."""
        return self._special


def load_tokenizer(folder: Path, vocab_size: int | None = None) -> Tokenizer:
    """Load the tokenizer files of a Hugging Face folder.

    Raises `InputError` where there are none or they are broken.
    """
    if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer.model")):
        raise InputError(f"{folder}: no tokenizer.json or tokenizer.model; copy it there.")
    # transformers announces that torch is missing; nothing here needs it.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    from transformers import AutoTokenizer

    try:
        inner = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises many types for a broken file
        raise InputError(
            f"{folder}: the tokenizer cannot be loaded ({_first_line(error)}); copy its files "
            "again."
        ) from error
    return Tokenizer(inner, str(folder), vocab_size)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
