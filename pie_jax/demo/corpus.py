"""The demo's training text: a seeded mix of documents without any held-out combination."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations, pairwise, product
from pathlib import Path

import numpy as np

from pie_jax.demo.text import sentences, stories
from pie_jax.files.corpus.documents import TextCorpus
from pie_jax.tasks import docstring, facts, ioi, pronoun

# Share of each kind among the documents.
Mix = tuple[tuple[sentences.Draw, float], ...]
MIX: Mix = (
    (sentences.ioi_sentences, 0.05),
    (sentences.more_ioi_sentences, 0.11),
    (sentences.three_name_sentences, 0.03),
    (sentences.functions, 0.05),
    (sentences.more_functions, 0.07),
    (sentences.mismatched_functions, 0.02),
    (sentences.other_functions, 0.03),
    (stories.pronoun_texts, 0.15),
    (stories.person_stories, 0.08),
    (stories.fact_texts, 0.14),
    (stories.plain_facts, 0.05),
    (stories.lists_again, 0.12),
    (stories.small_forms, 0.02),
    (sentences.free_sentences, 0.03),
    (sentences.library_pieces, 0.05),
)

# Of the later part of the model's training: more of what takes long to learn, two persons.
LATER_MIX: Mix = (
    (sentences.ioi_sentences, 0.03),
    (sentences.more_ioi_sentences, 0.06),
    (sentences.later_ioi_sentences, 0.08),
    (sentences.three_name_sentences, 0.02),
    (sentences.functions, 0.02),
    (sentences.later_functions, 0.06),
    (sentences.mismatched_functions, 0.01),
    (sentences.other_functions, 0.02),
    (stories.pronoun_texts, 0.20),
    (stories.who_is_who, 0.09),
    (stories.person_stories, 0.11),
    (stories.fact_texts, 0.18),
    (stories.plain_facts, 0.03),
    (stories.lists_again, 0.02),
    (stories.small_forms, 0.02),
    (sentences.free_sentences, 0.02),
    (sentences.library_pieces, 0.03),
)

EXAMPLES_SEED = 2

_NAMES = frozenset(ioi.NAMES)
_ARGUMENTS = frozenset(docstring.ARGUMENTS)
_PERSONS = frozenset([*pronoun.ROLES, *(noun for pair in pronoun.NOUNS for noun in pair)])
_COUNTRY = {word: one.name for one in facts.COUNTRIES for word in vars(one).values()}
_WORD = re.compile(r"[A-Za-z]+")
_FUNCTION = re.compile(r"\bdef \w+\(")


def make_documents(count: int, *, seed: int, mix: Mix = MIX) -> list[str]:
    """Draw documents in random order; the same arguments and Python give the same ones."""
    random = np.random.default_rng(seed)
    ends = np.rint(np.cumsum([0.0, *(share for _, share in mix)]) * count).astype(int)
    documents: list[str] = []
    for (draw, _), size in zip(mix, np.diff(ends), strict=True):
        documents += _draw_allowed(draw, int(size), random)
    return [documents[i] for i in random.permutation(len(documents))]


def make_lists(count: int, *, seed: int) -> list[str]:
    """Draw the documents of the first steps of training: lists that are said again."""
    return _draw_allowed(stories.lists_again, count, np.random.default_rng((seed, 1)))


def example_corpus(count: int = 2000) -> TextCorpus:
    """Return documents for examples and scores: another draw than those of training (0 and 1)."""
    return TextCorpus(make_documents(count, seed=EXAMPLES_SEED))


def task_words() -> list[str]:
    """Return every word of the tasks with its leading space."""
    ioi_words = (*ioi.NAMES, *ioi.PLACES, *ioi.OBJECTS)
    docstring_words = (*docstring.METHOD_NAMES, *docstring.ARGUMENTS, *docstring.NOUNS)
    every = (*ioi_words, *docstring_words, *_PERSONS, *_COUNTRY, *stories.words_of_stories())
    return sorted({f" {word}" for word in every})


def shows_heldout(text: str) -> bool:
    """Say whether a text holds what a task holds out: two names, a name with a noun, role or
    country, or neighbouring arguments of a function."""
    found = _WORD.findall(text)
    names = sorted(_NAMES.intersection(found))
    if any(ioi.is_heldout(a, b) for a, b in combinations(names, 2)):
        return True
    if any(pronoun.is_heldout(*pair) for pair in product(names, _PERSONS.intersection(found))):
        return True
    countries = {_COUNTRY[word] for word in found if word in _COUNTRY}
    if any(facts.is_heldout(*pair) for pair in product(names, countries)):
        return True
    # Arguments in the order in which they stand in the definition and are described.
    arguments = [word for word in found if word in _ARGUMENTS] if _FUNCTION.search(text) else []
    return any(docstring.is_heldout("", a, b) for a, b in pairwise(arguments))


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
