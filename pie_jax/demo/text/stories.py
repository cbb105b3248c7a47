"""Text from a small grammar: people and their pronouns, places, lists, brackets, agreement."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pie_jax.tasks import docstring, facts, ioi, pronoun
from pie_jax.tasks.words import pick, pick_one

_Random = np.random.Generator

# [WHO] is a name, a noun with "the" or a role with "the"; [SHE], [HER], [HIM] are its pronouns.
_FIRST = (
    "[WHO] went to the [PLACE].",
    "[WHO] was at the [PLACE] with a [OBJECT].",
    "In the morning [WHO] opened the door.",
    "[WHO] had lost a [OBJECT] near the [PLACE].",
    "There was a letter for [WHO] on the table.",
    "One day [WHO] came to the town.",
    "[WHO] lives near the [PLACE].",
    "It was late, and [WHO] was in the street.",
    "[WHO] wanted to see the [PLACE].",
    "They were waiting for [WHO].",
)
_NEXT = (
    "[SHE] had a [OBJECT] in [HER] hand.",
    "[SHE] was looking for [HER] [OBJECT].",
    "It was cold, so [SHE] went home.",
    "Everyone liked [HIM].",
    "The people talked about [HIM].",
    "Then [SHE] said that [SHE] was happy.",
    "Nobody saw [HIM], because [SHE] was in the [PLACE].",
    "[HER] friends gave a [OBJECT] to [HIM].",
    "In the evening [SHE] opened [HER] letter.",
    "[SHE] could not find [HER] [OBJECT] until [SHE] came to the [PLACE].",
    "After lunch [SHE] had forgotten [HER] [OBJECT].",
    "The children laughed with [HIM] when [SHE] told [HER] story.",
    "There was a letter for [HIM] at the [PLACE].",
    "Later that day [SHE] found [HER] [OBJECT] in [HER] room.",
    "Some of the people thanked [HIM].",
    "It was [HER] first day in the town.",
)
_ROLE_NEXT = (
    "The [ROLE] said that [SHE] was happy.",
    "When the [ROLE] came home, [SHE] opened [HER] letter.",
    "The [ROLE] was looking at [HER] [OBJECT].",
    "People liked the [ROLE] because [SHE] was good.",
    "They saw the [ROLE] and thanked [HIM].",
    "The [ROLE] could not find [HER] [OBJECT].",
    "They gave a [OBJECT] to the [ROLE], and [SHE] took it home.",
    "After lunch the [ROLE] had forgotten that [SHE] had to see [HER] friend.",
)
_DID = (
    "went home",
    "was happy",
    "had a [OBJECT]",
    "was looking for a [OBJECT]",
    "came to the [PLACE]",
    "had to go",
    "wanted to see the [PLACE]",
    "left the town",
)
_HAD = ("[OBJECT]", "friend", "letter", "house", "old [OBJECT]", "room", "story")

_MORE_FACTS = (
    "[CAPITAL] is the capital of [COUNTRY].",
    "The capital of [COUNTRY] is [CAPITAL].",
    "[CITY] is a city in [COUNTRY].",
    "The city of [CITY] lies in [COUNTRY].",
    "The people of [COUNTRY] are [ADJECTIVE].",
    "The [ADJECTIVE] capital is [CAPITAL].",
    "[CITY] is an old [ADJECTIVE] city.",
    "If you are [ADJECTIVE], the country of your parents is [COUNTRY].",
    "From the south of [COUNTRY] the train takes a day to the capital, [CAPITAL].",
    "People in [CITY] speak [ADJECTIVE], and their country is [COUNTRY].",
    "Is [CAPITAL] in [COUNTRY]? Yes, it is the capital.",
)
# No other text has a city and its capital, and none a held-out city and its.
_TWO_HOPS = (
    "[CITY] lies in the country whose capital is [CAPITAL].",
    "The capital of the country of [CITY] is [CAPITAL].",
    "From [CITY], the train to the capital goes to [CAPITAL].",
)
_TOLD_ROLE = (
    "[NAME] is a [WORD].",
    "The [WORD] is [NAME].",
    "[NAME], the [WORD], is here.",
    "A [WORD] called [NAME] came.",
)
_ASKED_ROLE = (
    "The [WORD] is [NAME].",
    "The name of the [WORD] is [NAME].",
    "[NAME] is the [WORD].",
    "Who is the [WORD]? It is [NAME].",
    "We saw the [WORD], so we saw [NAME].",
)
_TOLD_HOME = (
    "[NAME] lives in [WORD].",
    "In [WORD] lives [NAME].",
    "[NAME] comes from [WORD].",
    "From [WORD] came [NAME].",
)
_ASKED_HOME = (
    "The home of [NAME] is [WORD].",
    "The person in [WORD] is [NAME].",
    "[NAME] knows [WORD].",
    "Who lives in [WORD]? It is [NAME].",
    "If you see [NAME], you are in [WORD].",
)
_PLURAL = ("keys", "letters", "friends", "children", "streets", "songs", "tables", "rings")
_SINGULAR = ("key", "letter", "friend", "child", "street", "song", "table", "ring")
_LATER = (
    "near the [PLACE]",
    "in the [PLACE]",
    "of the [ROLE]",
    "with the [OBJECT]",
    "behind the house of the [ROLE]",
    "that the [ROLE] saw",
)
_BE = (("is", "was", "has been"), ("are", "were", "have been"))
_LISTED = (
    docstring.ARGUMENTS,
    docstring.NOUNS,
    (*ioi.OBJECTS, *ioi.PLACES, *_SINGULAR),
    pronoun.ROLES,
    tuple(noun for pair in pronoun.NOUNS for noun in pair),
    tuple(one.name for one in facts.COUNTRIES),
    tuple(one.city for one in facts.COUNTRIES),
    tuple(one.capital for one in facts.COUNTRIES),
)
_BRACKETS = (("(", ")"), ("[", "]"), ("{", "}"), ("<", ">"))
_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def words_of_stories() -> list[str]:
    """Return what the tokenizer should hold beside the words of tasks."""
    pronouns = {word for pair in pronoun.PRONOUNS.values() for word in pair}
    return sorted({*pronouns, *_PLURAL, *_SINGULAR, *_NUMBERS, *_DAYS})


def pronoun_texts(count: int, random: _Random) -> list[str]:
    """Draw texts in the form of the pronoun task that go on to more endings."""
    return [_pronoun_text(random) for _ in range(count)]


def fact_texts(count: int, random: _Random) -> list[str]:
    """Draw texts in the form of the facts task that go on to more endings."""
    return [_fact_text(random) for _ in range(count)]


def person_stories(count: int, random: _Random) -> list[str]:
    """Draw stories about one person, or two in turn, full of pronouns."""
    return [
        _two_persons(random) if random.random() < 0.5 else _person(random) for _ in range(count)
    ]


def plain_facts(count: int, random: _Random) -> list[str]:
    """Draw two or three statements about a country, and now and then one of two hops."""
    return [_facts(random) for _ in range(count)]


def lists_again(count: int, random: _Random) -> list[str]:
    """Draw lists of any words, each said twice or three times: every word of the second can be
    known from the first, which teaches to look back long before tasks do."""
    return [_again(random) for _ in range(count)]


def who_is_who(count: int, random: _Random) -> list[str]:
    """Draw two to four people and their roles or homes, told one way and then asked another."""
    return [_who_is_who(random) for _ in range(count)]


def small_forms(count: int, random: _Random) -> list[str]:
    """Draw lists, brackets, and sentences whose verb agrees with a noun far before it."""
    kinds: tuple[Callable[[_Random], str], ...] = (_list, _brackets, _agreement, _sequence)
    return [pick_one(random, kinds)(random) for _ in range(count)]


def _pronoun_text(random: _Random) -> str:
    openings, remarks, endings = pick_one(random, pronoun.TEMPLATES["seen"])
    opening, gender = pick_one(random, openings), int(random.integers(2))
    names = [pick_one(random, (pronoun.MALE, pronoun.FEMALE)[sex]) for sex in (gender, 1 - gender)]
    roles = pick(random, pronoun.ROLES, 2)
    noun = pick_one(random, pronoun.NOUNS)[gender]
    two = "[OTHER]" in opening
    text = opening + pick_one(random, remarks)
    for ending in pick(random, endings, int(random.integers(1, 4))):
        turn = int(random.integers(2)) if two else 0
        before, slot = ending.rsplit(" ", 1)
        word = pronoun.PRONOUNS[slot][gender if turn == 0 else 1 - gender]
        if two:
            before = before.replace("[ROLE]", roles[turn])
        text += f"{before} {word}{_goes_on(slot, random)}."
    values = {"[NAME]": names[0], "[OTHER]": names[1], "[NOUN]": noun, "[OTHER-ROLE]": roles[1]}
    for place, value in {**values, "[ROLE]": roles[0]}.items():
        text = text.replace(place, value)
    return _things(text, random)


def _goes_on(slot: str, random: _Random) -> str:
    """Return what follows a pronoun of a kind."""
    if slot == "[HER.]":
        return ""
    return f" {pick_one(random, _DID if slot == '[SHE]' else _HAD)}"


def _fact_text(random: _Random) -> str:
    one, two = facts.TEMPLATES["seen"]
    openings, remarks, endings = pick_one(random, (*one, *two))
    opening = pick_one(random, openings)
    names = pick(random, (*pronoun.MALE, *pronoun.FEMALE), 2)
    here = pick(random, facts.COUNTRIES, 2)
    things = {"[PLACE]": pick_one(random, ioi.PLACES), "[OBJECT]": pick_one(random, ioi.OBJECTS)}
    text = ""
    for ending in pick(random, endings, int(random.integers(1, 4))):
        turn = int(random.integers(2)) if "[OTHER]" in opening else 0
        answer = ending.rsplit(" ", 1)[1]
        if not text:
            people = {"[NAME]": names[0], "[OTHER]": names[1], **things}
            text = facts.filled(
                opening + pick_one(random, remarks),
                {**people, **facts.slots(here[0], here[1], answer)},
            )
        asked = {"[NAME]": names[turn], **facts.slots(here[turn], here[1 - turn], answer)}
        text += f"{facts.filled(ending, asked)}."
    return text


def _person(random: _Random) -> str:
    gender = int(random.integers(2))
    name = pick_one(random, (pronoun.MALE, pronoun.FEMALE)[gender])
    noun = pick_one(random, pronoun.NOUNS)[gender]
    who = pick_one(random, (name, name, f"the {noun}", f"the old {noun}", f"{name}, the {noun},"))
    sentences = [pick_one(random, _FIRST).replace("[WHO]", who)]
    sentences += pick(random, _NEXT, int(random.integers(2, 4)))
    return _things(_gendered(sentences, gender), random)


def _two_persons(random: _Random) -> str:
    gender = int(random.integers(2))
    names = [pick_one(random, (pronoun.MALE, pronoun.FEMALE)[sex]) for sex in (gender, 1 - gender)]
    roles = pick(random, pronoun.ROLES, 2)
    values = {
        "[NAME]": names[0],
        "[OTHER]": names[1],
        "[ROLE]": roles[0],
        "[OTHER-ROLE]": roles[1],
    }
    text = pick_one(random, pronoun.TWO)
    for slot, value in values.items():
        text = text.replace(slot, value)
    sentences = [f"{text}."]
    for turn in random.permutation([0, 1, int(random.integers(2))]):
        said = pick_one(random, _ROLE_NEXT).replace("[ROLE]", roles[turn])
        sentences.append(_gendered([said], gender if turn == 0 else 1 - gender))
    return _things(" ".join(sentences), random)


def _facts(random: _Random) -> str:
    country = pick_one(random, facts.COUNTRIES)
    # A city and its capital never meet, but in statements of two hops.
    without = pick_one(random, ("[CITY]", "[CAPITAL]"))
    texts = [text for text in _MORE_FACTS if without not in text]
    chosen = pick(random, texts, int(random.integers(2, 4)))
    if random.random() < 0.35 and not facts.is_heldout_city(country.city):
        chosen = [pick_one(random, _TWO_HOPS)]
    text = " ".join(chosen)
    for slot, value in vars(country).items():
        text = text.replace(f"[{'COUNTRY' if slot == 'name' else slot.upper()}]", value)
    return text


def _list(random: _Random) -> str:
    items = pick_one(random, (ioi.OBJECTS, ioi.PLACES, pronoun.ROLES, _PLURAL))
    chosen = pick(random, items, int(random.integers(3, 6)))
    head = pick_one(random, ("We have", "There are", "The list:", "They saw", "He wrote down"))
    again = ", ".join(chosen[:-1]) + f" and {chosen[-1]}"
    return f"{head} {again}. Once more: {again}."


def _again(random: _Random) -> str:
    if random.random() < 0.3:  # most lists of more names hold two that are held out together
        chosen = pick(random, ioi.NAMES, int(random.integers(2, 4)))
    else:
        chosen = pick(random, pick_one(random, _LISTED), int(random.integers(3, 10)))
    separator = pick_one(random, (", ", " and ", " ", "\n", " - ", " or "))
    end = pick_one(random, (". ", ".\n", "; ", "\n\n", ": "))
    times = 3 if len(chosen) < 6 else 2
    return end.join([separator.join(chosen)] * times)


def _who_is_who(random: _Random) -> str:
    places = tuple(one.name for one in facts.COUNTRIES), tuple(one.city for one in facts.COUNTRIES)
    told, asked, values = pick_one(
        random,
        (
            (_TOLD_ROLE, _ASKED_ROLE, pronoun.ROLES),
            (_TOLD_HOME, _ASKED_HOME, pick_one(random, places)),
        ),
    )
    size = int(random.integers(2, 5))
    people = list(
        zip(
            pick(random, (*pronoun.MALE, *pronoun.FEMALE), size),
            pick(random, values, size),
            strict=True,
        )
    )
    first, then = pick_one(random, told), pick_one(random, asked)
    again = pick(random, people, size)
    return " ".join(
        text.replace("[NAME]", name).replace("[WORD]", word)
        for text, pairs in ((first, people), (then, again))
        for name, word in pairs
    )


def _brackets(random: _Random) -> str:
    opened: list[str] = []
    parts: list[str] = []
    for _ in range(int(random.integers(4, 9))):
        parts.append(pick_one(random, (*_SINGULAR, *ioi.OBJECTS)))
        if random.random() < 0.5 and len(opened) < 4:
            pair = pick_one(random, _BRACKETS)
            parts.append(pair[0])
            opened.append(pair[1])
        elif opened:
            parts.append(opened.pop())
    return " ".join([*parts, *reversed(opened)])


def _agreement(random: _Random) -> str:
    number, when = int(random.integers(2)), int(random.integers(3))
    noun = pick_one(random, (_SINGULAR, _PLURAL)[number])
    middle = " ".join(pick(random, _LATER, int(random.integers(1, 3))))
    end = pick_one(random, ("old.", "new.", "here.", "good.", "in the [PLACE]."))
    return _things(f"The {noun} {middle} {_BE[number][when]} {end}", random)


def _sequence(random: _Random) -> str:
    items = pick_one(random, (_NUMBERS, _DAYS))
    start = int(random.integers(len(items) - 3))
    return ", ".join(items[start : start + int(random.integers(3, 7))]) + "."


def _gendered(sentences: Sequence[str], gender: int) -> str:
    text = " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences)
    forms = {"[SHE]": ("he", "she"), "[HER]": ("his", "her"), "[HIM]": ("him", "her")}
    for slot, pair in forms.items():
        for start in (". ", "? "):
            text = text.replace(start + slot, start + pair[gender].capitalize())
        text = text.replace(slot, pair[gender])
    return text


def _things(text: str, random: _Random) -> str:
    text = text.replace("[PLACE]", pick_one(random, ioi.PLACES)).replace(
        "[ROLE]", pick_one(random, pronoun.ROLES)
    )
    return text.replace("[OBJECT]", pick_one(random, ioi.OBJECTS))
