"""The demo's training text and tokenizer."""

from __future__ import annotations

import json
import re
from itertools import pairwise

import numpy as np
import pytest
from tokenizers import Tokenizer

from pie_jax.demo import corpus
from pie_jax.demo.text import docstrings, forms, sentences, stories
from pie_jax.demo.tokenizer import save_tokenizer, train_tokenizer
from pie_jax.demo.windows import make_batches
from pie_jax.errors import PieError
from pie_jax.models.tokenizer import load_tokenizer
from pie_jax.tasks import TASKS, docstring, encode_pairs, facts, ioi, pronoun


@pytest.fixture(scope="module")
def documents() -> list[str]:
    return corpus.make_documents(4000, seed=0)


@pytest.fixture(scope="module")
def tokenizer(documents) -> Tokenizer:
    return train_tokenizer(documents, corpus.task_words())


def test_documents_depend_on_the_seed_alone(documents):
    assert corpus.make_documents(4000, seed=0) == documents
    assert corpus.make_documents(4000, seed=1) != documents
    assert len(documents) == 4000


@pytest.mark.parametrize("task", sorted(TASKS))
def test_heldout_prompts_are_recognised_and_training_ones_pass(task):
    heldout = TASKS[task].generate(200, seed=3, split="heldout")
    assert all(corpus.shows_heldout(pair.clean) for pair in heldout)
    if task == "ioi":  # prompts of other tasks may hold what this one holds out
        train = TASKS[task].generate(200, seed=3, split="train")
        assert not any(corpus.shows_heldout(pair.clean) for pair in train)


def test_no_document_shows_two_heldout_names(documents):
    pairs = [(a, b) for a in ioi.NAMES for b in ioi.NAMES if a < b and ioi.is_heldout(a, b)]
    words = [set(text.replace(".", " ").replace(",", " ").split()) for text in documents]
    assert pairs
    assert not [1 for a, b in pairs for held in words if a in held and b in held]


def test_no_document_shows_a_heldout_argument_after_its_predecessor(documents):
    functions = [text for text in documents if "def " in text and sentences.signature(text)]
    assert len(functions) > 500
    for text in functions:
        described = re.findall(r"\n *(?:[:@]\w+|-) (\w+):", text)
        assert described
        for names in (sentences.signature(text), described):
            assert not any(docstring.is_heldout("", a, b) for a, b in pairwise(names))


def test_no_document_shows_a_person_with_a_heldout_noun_role_or_country(documents):
    word = re.compile(r"\w+")
    country = {part: one.name for one in facts.COUNTRIES for part in vars(one).values()}
    persons = {*pronoun.ROLES, *(noun for pair in pronoun.NOUNS for noun in pair)}
    shown = 0
    for text in documents:
        found = set(word.findall(text))
        for name in found.intersection(ioi.NAMES):
            places = {country[part] for part in found if part in country}
            shown += len(places)
            assert not any(facts.is_heldout(name, place) for place in places)
            assert not any(pronoun.is_heldout(name, part) for part in found & persons)
    assert shown > 300


def test_no_document_has_a_template_of_the_unseen_ones(documents):
    parts = [*pronoun.UNSEEN_ENDINGS, *pronoun.UNSEEN_ROLE_ENDINGS, *facts.UNSEEN_CAPITAL_ENDINGS]
    parts += [*facts.UNSEEN_COUNTRY_ENDINGS, *ioi.UNSEEN_TEMPLATES]
    plain = [max(re.split(r"\[[^]]*\]", part), key=len) for part in parts]
    whole = [part for part in plain if len(part.split()) >= 4]
    assert len(whole) > 15
    assert not [part for part in whole if any(part in text for text in documents)]
    assert not set(forms.FUNCTION_FORMS) & set(docstring.UNSEEN_TEMPLATES)


def test_most_cities_and_their_capitals_meet_and_one_in_four_never_does():
    texts = stories.plain_facts(3000, np.random.default_rng(0))
    for one in facts.COUNTRIES:
        met = [text for text in texts if one.city in text and one.capital in text]
        assert bool(met) != facts.is_heldout_city(one.city), one.city


def test_a_pronoun_is_that_of_its_person():
    for text in stories.person_stories(500, np.random.default_rng(1)):
        assert "[" not in text
        names = [name for name in re.findall(r"\w+", text) if name in ioi.NAMES]
        if len(set(names)) == 1:
            said = set(re.findall(r"\b(?:he|she|his|him|her|He|She|His|Her)\b", text))
            female = names[0] in pronoun.FEMALE
            assert all((word.lower() in ("she", "her")) == female for word in said)


def test_every_kind_of_document_is_there(documents):
    assert any("gave a" in text and text.startswith("Then, ") for text in documents)
    assert any(" she" in text for text in documents)
    assert any("capital" in text for text in documents)
    assert any(":param" in text for text in documents)
    library = set(sentences.library_pieces(20_000, np.random.default_rng(0)))
    assert 0.04 < np.mean([text in library for text in documents]) < 0.06


def test_library_docstrings_are_plentiful_and_distinct():
    texts = docstrings.standard_library_docstrings()
    assert len(texts) > 1000
    assert len(set(texts)) == len(texts)


def test_corpus_file_holds_the_documents(tmp_path, documents):
    corpus.write_corpus(tmp_path / "text" / "corpus.jsonl", 4000, seed=0)
    lines = (tmp_path / "text" / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [{"text": text} for text in documents]


def test_each_task_word_is_one_token(tokenizer):
    for word in corpus.task_words():
        assert len(tokenizer.encode(word, add_special_tokens=False).ids) == 1, word


def test_too_small_a_vocabulary_is_refused():
    with pytest.raises(PieError, match="are not one token in a vocabulary of 300"):
        train_tokenizer(["a b"], corpus.task_words(), vocab_size=300)


def test_tokenizer_folder_opens_in_transformers(tmp_path, tokenizer, documents):
    save_tokenizer(tokenizer, tmp_path)
    loaded = load_tokenizer(tmp_path, 2048)
    for text in [*documents[:200], "\ttabs, é, 日本, 🙂 and  spaces \n\n"]:
        ids = loaded.encode(text)
        assert ids[0] == 0
        assert ids.count(0) == 1
        assert ids == tokenizer.encode(text).ids
        assert "".join(map(loaded.token, ids[1:])) == text or not text.isascii()
        assert tokenizer.decode(ids) == text
    for task in TASKS.values():
        pairs = task.generate(50, seed=0, tokenizer=loaded, split="heldout")
        assert len(encode_pairs(pairs, loaded, needs_target=True)[0]) == 50


def test_windows_depend_on_seed_and_step_and_start_with_bos(tokenizer, documents):
    options = {"rows": 5, "window": 72}
    batches = make_batches(tokenizer, documents, seed=0, **options)
    again = make_batches(tokenizer, documents, seed=0, **options)
    other = make_batches(tokenizer, documents, seed=1, **options)
    assert batches(7).shape == (5, 72)
    assert batches(7).dtype == np.int32
    np.testing.assert_array_equal(batches(7)[:, 0], np.zeros(5))
    np.testing.assert_array_equal(again(7), batches(7))
    assert not np.array_equal(batches(8), batches(7))
    assert not np.array_equal(other(7), batches(7))
