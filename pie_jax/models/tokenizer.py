"""Tokenizers through transformers, with PIE's rule for the first token.

A tokenizer without BOS (Qwen's) puts another special token in its place, the one that
circuit-tracer takes: padding, else EOS, else any. It is called BOS all the same.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, cast

from pie_jax.errors import InputError
from pie_jax.files.tensor_reader import require_no_pointer

_FILES = ("tokenizer.json", "tokenizer.model")


Kind = Literal["bos", "pad", "eos", "special"]


@dataclass(frozen=True)
class FirstToken:
    """The token in front of every prompt; `kind` is `bos`, or what stands in for a missing one."""

    id: int
    token: str
    kind: Kind


class Tokenizer:
    """Text to token ids and back; BOS is put in front when the first token is not special."""

    def __init__(self, inner: Any, source: str, vocab_size: int | None = None):
        self._inner = inner
        self.source = source
        self._special = frozenset(inner.all_special_ids)
        self._texts: dict[int, str] = {}
        self._vocab_size = len(inner) if vocab_size is None else vocab_size
        plain = _plain_tokens(inner, self._special)
        # Tokens added to a finished tokenizer, such as an unused [PAD], may have no embedding.
        own = (index for _, index in reversed(plain) if index not in inner.added_tokens_decoder)
        if next(own, 0) >= self._vocab_size:
            raise InputError(
                f"{source}: the tokenizer has {len(inner)} tokens, but the model only "
                f"{vocab_size}; they do not belong together."
            )
        self._in_front = _ids_in_front(inner, plain, self._special)
        self._anchor = _anchor(inner, plain)
        self._bos = _bos(inner, self._vocab_size)

    def encode(self, text: str) -> list[int]:
        """Return a prompt's ids, BOS in front once, whether or not the text spells it.

        What the tokenizer itself puts behind a text, such as EOS, is left out: the prompt goes on.
        Raises `InputError` where there is no BOS, or a token that the model does not have.
        """
        ids = self._plain(text)
        bos = None if self._bos is None else self._bos[0]
        if self._in_front:
            while bos in self._in_front and ids[:1] == [bos]:
                ids = ids[1:]
            return [*self._in_front, *ids]
        if ids and ids[0] in self._special:
            while ids[:2] == [bos, bos]:
                ids = ids[1:]
            return ids
        if bos is None:
            raise InputError(
                f"{self.source}: the tokenizer has no BOS token, which PIE needs, and no other "
                "special one to stand in for it; add one that the model was trained with."
            )
        return [bos, *ids]

    def first_token(self) -> FirstToken | None:
        """Return what is put in front of prompts, None where there is nothing that could be."""
        bos, own = self._bos, self._in_front[:1]
        if own and (bos is None or own != [bos[0]]):
            bos = (own[0], "special")
        return None if bos is None else FirstToken(bos[0], self.token(bos[0]), bos[1])

    def answer_id(self, text: str) -> int | None:
        """Return the id of an answer that is exactly one token, else None."""
        ids = self._answer_ids(text)
        return ids[0] if len(ids) == 1 else None

    def answer_pieces(self, text: str) -> list[str]:
        """Return the tokens of an answer as text."""
        return [self.token(index) for index in self._answer_ids(text)]

    def _answer_ids(self, text: str) -> list[int]:
        """Return an answer's ids: by itself where that is one token, else as it follows a prompt.

        Some tokenizers put a space of their own in front of what is by itself.
        """
        alone = self._plain(text)
        if len(alone) == 1 or self._anchor is None:
            return alone
        before = self._anchor[1].strip()
        context, whole = self._plain(before), self._plain(before + text)
        return whole[len(context) :] if whole[: len(context)] == context else alone

    def token(self, index: int) -> str:
        """Return one id as it reads within a text, with the space that it begins with."""
        text = self._texts.get(index)
        if text is None:
            text = self._texts[index] = self.decode([index])
        return text

    def decode(self, ids: Sequence[int]) -> str:
        """Return ids as they read within a text; characters spread over several of them are whole.

        Many tokenizers drop the space in front of what they decode, so a token goes before it.
        """
        ids = [int(index) for index in ids]
        with _working(self.source):
            if self._anchor is not None and not self._special.issuperset(ids[:1]):
                anchor, before = self._anchor
                text = _decode(self._inner, [anchor, *ids])
                if text.startswith(before):
                    return text.removeprefix(before)
            return _decode(self._inner, ids)

    def special_ids(self) -> frozenset[int]:
        """Return the ids of BOS, EOS, padding and the like."""
        return self._special

    def _plain(self, text: str) -> list[int]:
        """Return a text's ids, none added."""
        with _working(self.source):
            ids = list(self._inner.encode(text, add_special_tokens=False))
        beyond = next((index for index in ids if index >= self._vocab_size), None)
        if beyond is not None:
            raise InputError(
                f"{self.source}: the text {_shortened(text)!r} holds the token "
                f"{self._inner.convert_ids_to_tokens(beyond)!r}, number {beyond}, but the model "
                f"has only {self._vocab_size} tokens; leave it out."
            )
        return ids


class _NoTokenizer:
    """Stands where a model has none: prompts are ids then, and tokens have no texts."""

    source = "in memory"

    def first_token(self) -> None:
        """Return None: nothing is put in front of ids."""

    def token(self, index: int) -> str:
        """Return an id as text: its number."""
        return f"#{index}"

    def decode(self, ids: Sequence[int]) -> str:
        """Return ids as text: their numbers."""
        return " ".join(map(self.token, ids))

    def encode(self, text: str) -> list[int]:
        """Raise `InputError`: a text has no ids."""
        raise InputError(
            "this model has no tokenizer: give prompts as ids (pie_jax.TokenPair), or a tokenizer "
            "with the model (pie_jax.LanguageModel)."
        )


NO_TOKENIZER = cast(Tokenizer, _NoTokenizer())


def load_tokenizer(folder: Path, vocab_size: int | None = None) -> Tokenizer:
    """Load the tokenizer files of a Hugging Face folder.

    Raises `InputError` where there are none or they are broken.
    """
    files = [path for name in _FILES if (path := folder / name).exists()]
    if not files:
        raise InputError(f"{folder}: no tokenizer.json or tokenizer.model; copy it there.")
    for path in files:
        require_no_pointer(path)
    _quiet_transformers()
    with _working(str(folder)):
        inner = _tokenizer_class(folder).from_pretrained(folder, local_files_only=True)
        return Tokenizer(inner, str(folder), vocab_size)


@contextmanager
def _working(source: str) -> Iterator[None]:
    """Raise `InputError` where a tokenizer's files break it, when opened or when first used.

    transformers and tokenizers raise many types for that; what Rust panics with is no Exception.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise InputError(
            f"{source}: the tokenizer cannot be used ({_first_line(error)}); copy its files again."
        ) from error


def _quiet_transformers() -> None:
    """Keep transformers' remarks off the terminal, unless TRANSFORMERS_VERBOSITY asks for them.

    It says that torch is missing, which nothing here needs, that some texts are long, and that
    some tokenizers want an option of its own. Errors are raised all the same.
    """
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    asked = "TRANSFORMERS_VERBOSITY" in os.environ
    if not asked:
        # What it says while it is imported; importing sets the level anew.
        logging.getLogger("transformers").setLevel(logging.ERROR)
    from transformers.utils import logging as theirs

    if not asked:
        theirs.set_verbosity_error()


def _tokenizer_class(folder: Path) -> Any:
    """Return the class that opens a folder: the plain one where its files say so, as finding the
    right one imports all models' tables and takes a third of a second."""
    import transformers

    config = folder / "tokenizer_config.json"
    plain = "PreTrainedTokenizerFast"
    if config.exists() and (folder / "tokenizer.json").exists():
        found = json.loads(config.read_text(encoding="utf-8"))
        if isinstance(found, dict) and found.get("tokenizer_class") == plain:
            return getattr(transformers, plain)
    return transformers.AutoTokenizer


def _bos(inner: Any, vocab_size: int) -> tuple[int, Kind] | None:
    """Return BOS, or else the first special token that the model has, in circuit-tracer's order."""
    if inner.bos_token_id is not None:
        return int(inner.bos_token_id), "bos"
    others: list[tuple[int | None, Kind]] = [
        (inner.pad_token_id, "pad"),
        (inner.eos_token_id, "eos"),
        *((index, "special") for index in inner.all_special_ids),
    ]
    found = ((index, kind) for index, kind in others if index is not None and index < vocab_size)
    return next(found, None)


def _plain_tokens(inner: Any, special: frozenset[int]) -> list[tuple[str, int]]:
    """Return name and id of all tokens that are not special, in order of ids."""
    names = [entry for entry in inner.get_vocab().items() if entry[1] not in special]
    return sorted(names, key=itemgetter(1))


def _ids_in_front(
    inner: Any, plain: Sequence[tuple[str, int]], special: frozenset[int]
) -> list[int]:
    """Return the ids that a tokenizer puts in front of every text."""
    for _, index in plain:
        own = inner.encode(_decode(inner, [index]), add_special_tokens=False)
        # What is not special itself can be told from what is added.
        if own and own[0] not in special:
            whole = list(inner.encode(_decode(inner, [index])))
            return whole[: whole.index(own[0])]
    return []


def _anchor(inner: Any, plain: Sequence[tuple[str, int]]) -> tuple[int, str] | None:
    """Return a token, and its text, that stands for what is before a token in a text."""
    for name, index in plain:
        # Letters and digits: the name of a part of a character says more than its text.
        if any(character.isalnum() for character in name):
            text = _decode(inner, [index])
            if text.strip().isalnum() and text.strip() in (name, name[1:]):
                return index, text
    return None


def _decode(inner: Any, ids: list[int]) -> str:
    # Without "cleaning up", which takes spaces before punctuation away.
    return inner.decode(ids, clean_up_tokenization_spaces=False)


def _shortened(text: str, most: int = 40) -> str:
    return text if len(text) <= most else text[:most] + "..."


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
