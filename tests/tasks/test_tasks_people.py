"""The tasks pronoun and facts: what decides the answer, what is held out, what is unseen."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import pytest

from pie_jax.errors import InputError
from pie_jax.tasks import TASKS, Pair, docstring, facts, ioi, pronoun
from pie_jax.tasks.words import Split

WORD = re.compile(r"\w+")
COUNTRY_OF = {word: one.name for one in facts.COUNTRIES for word in vars(one).values()}
NAMES = (*pronoun.MALE, *pronoun.FEMALE)
PRONOUNS = {word for pair in pronoun.PRONOUNS.values() for word in pair}
NOUNS = {noun for pair in pronoun.NOUNS for noun in pair}
GENDERED = (*NAMES, *NOUNS, *PRONOUNS)
PERSONS = {*pronoun.ROLES, *(noun for pair in pronoun.NOUNS for noun in pair)}


def found(text: str, words: object) -> list[str]:
    return [word for word in WORD.findall(text) if word in words]  # type: ignore[operator]


def genders(text: str) -> list[bool]:
    return [name in pronoun.FEMALE for name in found(text, NAMES)]


def combinations(name: str, text: str) -> list[bool]:
    """Return of each name with each noun, role or country of a text whether it is held out."""
    names = found(text, NAMES)
    if name == "pronoun":
        return [pronoun.is_heldout(a, b) for a in names for b in found(text, PERSONS)]
    countries = {COUNTRY_OF[word] for word in found(text, COUNTRY_OF)}
    return [facts.is_heldout(a, b) for a in names for b in countries]


def test_word_lists_do_not_overlap_or_repeat() -> None:
    flat = [word for one in facts.COUNTRIES for word in vars(one).values()]
    for words in (pronoun.MALE, pronoun.FEMALE, pronoun.ROLES, flat):
        assert len(set(words)) == len(words)
    assert not set(pronoun.MALE) & set(pronoun.FEMALE)
    assert not PERSONS & set(flat)


def both(name: str, n: int, **options: Any) -> list[Pair]:
    """Return pairs of one person and of two."""
    generate: Any = TASKS[name].generate
    return [pair for persons in (1, 2) for pair in generate(n // 2, persons=persons, **options)]


@pytest.mark.parametrize("split", ["all", "unseen"])
def test_the_pronoun_is_that_of_the_person_asked_about(split: Split) -> None:
    kinds = set()
    for pair in both("pronoun", 300, seed=0, split=split):
        names, persons = found(pair.clean, NAMES), found(pair.clean, PERSONS)
        if len(names) == 1:
            female = names[0] in pronoun.FEMALE
            nouns = [word for word in persons if word not in pronoun.ROLES]
            assert nouns, "a noun tells the gender too"
            assert all((noun in {b for _, b in pronoun.NOUNS}) == female for noun in nouns)
        else:
            assert len(names) == 2
            assert sorted(genders(pair.clean)) == [False, True]
            # The role named last is the asked one's; it stands beside one of the names.
            first, second, asked = persons
            female = names[[first, second].index(asked)] in pronoun.FEMALE
        kinds.add((len(names), female))
        assert (pair.target in (" she", " her")) == female
        assert (pair.distractor in (" she", " her")) != female
    assert len(kinds) == 4


def test_other_gender_changes_every_name_and_noun_and_nothing_else() -> None:
    for pair in both("pronoun", 100, seed=1, n_corruptions=3):
        assert len(set(pair.corrupted)) == 3
        for text in pair.corrupted:
            assert genders(text) == [not female for female in genders(pair.clean)]
            changing = re.compile(rf"\b({'|'.join(GENDERED)})\b")
            assert changing.sub("_", text) == changing.sub("_", pair.clean)


@pytest.mark.parametrize("split", ["all", "unseen"])
def test_the_fact_is_that_of_the_person_asked_about(split: Split) -> None:
    kinds = set()
    for pair in both("facts", 300, seed=0, split=split):
        assert pair.target is not None
        assert pair.distractor is not None
        here = {COUNTRY_OF[word] for word in found(pair.clean, COUNTRY_OF)}
        target, distractor = COUNTRY_OF[pair.target.strip()], COUNTRY_OF[pair.distractor.strip()]
        assert target in here
        assert target != distractor
        assert pair.target.strip() not in WORD.findall(pair.clean), "the answer has to be known"
        names = found(pair.clean, NAMES)
        if len(here) == 2:
            assert here == {target, distractor}
            places = found(pair.clean, COUNTRY_OF)
            owner = names[[COUNTRY_OF[place] for place in places].index(target)]
            assert owner == names[-1]
        kinds.add((len(here), pair.target.strip() in {one.capital for one in facts.COUNTRIES}))
    assert len(kinds) == 4


def test_a_pronoun_between_is_that_of_the_person() -> None:
    for pair in pronoun.generate(100, seed=0):
        for text in (pair.clean, *pair.corrupted):
            said = set(found(text, PRONOUNS))
            assert said
            assert said <= ({"she", "her"} if genders(text)[0] else {"he", "his", "him"})


def test_two_hops_name_a_city_and_ask_for_its_capital() -> None:
    by_city = {one.city: one for one in facts.COUNTRIES}
    for split in ("train", "heldout", "unseen"):
        for pair in facts.generate(60, seed=0, hops=2, split=split):
            (city,) = found(pair.clean, COUNTRY_OF)
            assert pair.target == f" {by_city[city].capital}"
            assert facts.is_heldout_city(city) == (split != "train")
    with pytest.raises(InputError, match="hops is 3"):
        facts.generate(1, seed=0, hops=3)
    with pytest.raises(InputError, match="hops is 2; it must be 1, or 2 with persons=1"):
        facts.generate(1, seed=0, hops=2, persons=2)


def test_other_place_moves_everybody_to_new_countries() -> None:
    places = re.compile(r"\b(" + "|".join(COUNTRY_OF) + r")\b")
    for pair in both("facts", 100, seed=1, n_corruptions=3):
        here = {COUNTRY_OF[word] for word in found(pair.clean, COUNTRY_OF)}
        assert len(set(pair.corrupted)) == 3
        for text in pair.corrupted:
            there = {COUNTRY_OF[word] for word in found(text, COUNTRY_OF)}
            assert not here & there
            assert len(there) == len(here)
            assert places.sub("_", text) == places.sub("_", pair.clean)


@pytest.mark.parametrize("name", ["pronoun", "facts"])
def test_splits_part_the_combinations(name: str) -> None:
    for split in ("heldout", "unseen"):
        pairs = both(name, 150, seed=0, split=split)
        assert all(any(combinations(name, pair.clean)) for pair in pairs)
    train = both(name, 300, seed=0, split="train")
    assert not any(any(combinations(name, pair.clean)) for pair in train)
    shares = [any(combinations(name, pair.clean)) for pair in both(name, 300, seed=0)]
    assert {True, False} == set(shares)


def form(pair: Pair) -> str:
    """Return a prompt with one sign for all words that vary."""
    lists = (ioi.NAMES, ioi.PLACES, ioi.OBJECTS, PERSONS, COUNTRY_OF, docstring.ARGUMENTS)
    every = {word for words in (*lists, docstring.NOUNS, docstring.METHOD_NAMES) for word in words}
    return "".join(
        "_" if part in every else part for part in re.findall(r"[a-zA-Z]+|.", pair.clean)
    )


@pytest.mark.parametrize("name", sorted(TASKS))
def test_unseen_templates_are_no_others(name: str) -> None:
    draw: Any = partial(both, name) if name in ("pronoun", "facts") else TASKS[name].generate
    forms = {form(pair) for pair in draw(400, seed=0, split="heldout")}
    unseen = {form(pair) for pair in draw(100, seed=0, split="unseen")}
    assert len(unseen) >= 4
    assert not forms & unseen


@pytest.mark.parametrize("name", ["pronoun", "facts"])
@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"corruption": "nonsense"}, "corruption"),
        ({"split": "test"}, '"unseen"'),
        ({"n": 0}, "n is 0"),
        ({"persons": 3}, "persons is 3"),
        ({"n_corruptions": 80}, "needed"),
    ],
)
def test_a_wrong_option_is_one_sentence_that_names_it(
    name: str, options: dict[str, object], word: str
) -> None:
    with pytest.raises(InputError, match=re.escape(word)):
        TASKS[name].generate(**{"n": 1, "seed": 0, **options})  # type: ignore[arg-type]
