"""The demo's training text: a seeded mix of documents without any held-out combination."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np

from pie_jax.demo import sentences
from pie_jax.files.corpus.documents import TextCorpus
from pie_jax.tasks import docstring, ioi

# Share of each kind among the documents.
MIX: tuple[tuple[sentences.Draw, float], ...] = (
    (sentences.ioi_sentences, 0.40),
    (sentences.three_name_sentences, 0.08),
    (sentences.functions, 0.22),
    (sentences.mismatched_functions, 0.03),
    (sentences.other_functions, 0.05),
    (sentences.free_sentences, 0.12),
    (sentences.library_pieces, 0.10),
)

EXAMPLES_SEED = 2

_NAMES = frozenset(ioi.NAMES)
_WORD = re.compile(r"[A-Za-z]+")
_PARAMETER = re.compile(r":param (\w+)")


def make_documents(count: int, *, seed: int) -> list[str]:
    """Draw documents in random order; the same arguments and Python give the same ones."""
    random = np.random.default_rng(seed)
    ends = np.rint(np.cumsum([0.0, *(share for _, share in MIX)]) * count).astype(int)
    documents: list[str] = []
    for (draw, _), size in zip(MIX, np.diff(ends), strict=True):
        documents += _draw_allowed(draw, int(size), random)
    return [documents[i] for i in random.permutation(len(documents))]


def example_corpus(count: int = 2000) -> TextCorpus:
    """Return documents for examples and scores: another draw than those of training (0 and 1)."""
    return TextCorpus(make_documents(count, seed=EXAMPLES_SEED))


def task_words() -> list[str]:
    """Return every word of the tasks with its leading space."""
    ioi_words = (*ioi.NAMES, *ioi.PLACES, *ioi.OBJECTS)
    docstring_words = (*docstring.METHOD_NAMES, *docstring.ARGUMENTS, *docstring.NOUNS)
    return sorted({f" {word}" for word in (*ioi_words, *docstring_words)})


def shows_heldout(text: str) -> bool:
    """Say whether a text holds two names, or neighbouring arguments, that are held out."""
    names = sorted(_NAMES.intersection(_WORD.findall(text)))
    if any(ioi.is_heldout(a, b) for a, b in combinations(names, 2)):
        return True
    neighbours = [*pairwise(sentences.signature(text)), *pairwise(_PARAMETER.findall(text))]
    return any(docstring.is_heldout("", a, b) for a, b in neighbours)


def write_corpus(path: Path, count: int, *, seed: int) -> None:
    """Write `count` documents as JSONL with the one key `text`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.writelines(
            json.dumps({"text": text}) + "\n" for text in make_documents(count, seed=seed)
        )
    temporary.replace(path)


def _draw_allowed(draw: sentences.Draw, count: int, random: np.random.Generator) -> list[str]:
    def rounds() -> Iterator[str]:
        while True:
            yield from draw(max(count, 1), random)

    allowed = (text for text in rounds() if not shows_heldout(text))
    return [next(allowed) for _ in range(count)]
