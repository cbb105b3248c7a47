"""More corrupted versions of prompts, made of the words that the pairs exchange."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pie_jax.errors import InputError
from pie_jax.tasks.encode import EncodedPair
from pie_jax.tasks.more_corruptions import with_more_corruptions

# A sentence of ids 1 to 6 around words: names are 10 to 19, cities 20 to 29; two tokens: 3x 4x.
NAMES, CITIES = range(10, 20), range(20, 30)


def pair(index: int, words: tuple[int, int], *others: tuple[int, int]) -> EncodedPair:
    """Return a prompt that names a person twice and a city once, with versions."""

    def ids(name: int, city: int) -> tuple[int, ...]:
        return (1, name, 2, city, 3, name, 4)

    return EncodedPair(index, ids(*words), tuple(ids(*other) for other in others), 50, 51)


PAIRS = [
    pair(0, (10, 20), (11, 21), (12, 22)),
    pair(1, (11, 22), (13, 23), (14, 24)),
    pair(2, (14, 21), (15, 25), (16, 26)),
]


def test_versions_exchange_words_for_others_of_their_role() -> None:
    found = with_more_corruptions(PAIRS, 3, of=2, seed=0)
    for one, made in zip(PAIRS, found, strict=True):
        assert made.corrupted[:2] == one.corrupted
        new = made.corrupted[2:]
        assert len(set(new)) == 3
        for version in new:
            assert version[1] == version[5]
            assert version[1] in NAMES
            assert version[3] in CITIES
            # What the pair itself exchanges is not made again.
            assert version[1] not in {ids[1] for ids in (one.clean, *one.corrupted)}
            assert version[3] not in {ids[3] for ids in (one.clean, *one.corrupted)}
            assert (version[0], version[2], version[4], version[6]) == (1, 2, 3, 4)


def test_versions_follow_from_the_seed() -> None:
    first, again, other = (with_more_corruptions(PAIRS, 2, of=2, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_versions_kept_aside_stay_last_and_give_no_words() -> None:
    for seed in range(8):
        found = with_more_corruptions(PAIRS, 1, of=1, seed=seed)
        for one, made in zip(PAIRS, found, strict=True):
            assert (made.corrupted[0], made.corrupted[2]) == one.corrupted
            # What no other version has, and the pair's own.
            aside = {12, 16, 24, 26, one.corrupted[1][1], one.corrupted[1][3]}
            assert not aside & set(made.corrupted[1])


def test_words_of_a_role_come_back_in_other_versions_before_those_of_another() -> None:
    """Four names are left for six versions of the first pair."""
    found = with_more_corruptions(PAIRS, 6, of=2, seed=0)
    for made in found:
        assert len(set(made.corrupted)) == 8
        assert all(version[1] in NAMES and version[3] in CITIES for version in made.corrupted)


def test_words_are_exchanged_for_as_many_tokens() -> None:
    def ids(word: tuple[int, ...]) -> tuple[int, ...]:
        return (1, *word, 2)

    rows = [
        EncodedPair(0, ids((30, 40)), (ids((31, 41)),), None, None),
        EncodedPair(1, ids((32, 42)), (ids((33, 43)),), None, None),
        EncodedPair(2, ids((7,)), (ids((8,)),), None, None),
    ]
    found = with_more_corruptions(rows[:2], 2, of=1, seed=0)
    assert set(found[0].corrupted[1:]) == {ids((32, 42)), ids((33, 43))}
    with pytest.raises(InputError, match=r"row 2 .*0 more corrupted versions"):
        with_more_corruptions(rows, 1, of=1, seed=0)


def test_answers_are_never_brought_in() -> None:
    answered = [replace(PAIRS[0], target_id=13, distractor_id=14), *PAIRS[1:]]
    found = with_more_corruptions(answered, 2, of=2, seed=0)
    assert not {13, 14} & {version[1] for version in found[0].corrupted}


def test_too_few_words_are_refused() -> None:
    with pytest.raises(InputError, match=r"pairs.csv, row 0 .* not 9 .*give more pairs"):
        with_more_corruptions(PAIRS[:1], 9, of=2, seed=0, source="pairs.csv")
