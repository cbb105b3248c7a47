"""Facts: the capital, or the country, that belongs to a person named some way back.

Prompts are an opening, a remark about something else and an ending. In an opening of one person two
words tell the country ("Henry is French and lives in Lyon"). With `persons=2` each of two has a
country, and the answer takes finding whose is asked for before the fact is recalled. With `hops=2`
the opening names a city alone, and the answer is the capital of its country.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from pie_jax.errors import InputError
from pie_jax.tasks import words
from pie_jax.tasks.encode import EncodesPrompts
from pie_jax.tasks.ioi import OBJECTS, PLACES
from pie_jax.tasks.pronoun import FEMALE, MALE
from pie_jax.tasks.records import Pair
from pie_jax.tasks.words import Split


@dataclass(frozen=True)
class Country:
    """A country, what comes from it, its capital and another city."""

    name: str
    adjective: str
    capital: str
    city: str


COUNTRIES = tuple(
    Country(*line.split())
    for line in """
    France French Paris Lyon
    England English London Manchester
    Germany German Berlin Hamburg
    Spain Spanish Madrid Barcelona
    Italy Italian Rome Milan
    Portugal Portuguese Lisbon Porto
    Greece Greek Athens Patras
    Austria Austrian Vienna Salzburg
    Ireland Irish Dublin Cork
    Norway Norwegian Oslo Bergen
    Sweden Swedish Stockholm Uppsala
    Finland Finnish Helsinki Turku
    Denmark Danish Copenhagen Aarhus
    Poland Polish Warsaw Krakow
    Hungary Hungarian Budapest Szeged
    Russia Russian Moscow Kazan
    Egypt Egyptian Cairo Alexandria
    Japan Japanese Tokyo Osaka
    China Chinese Beijing Shanghai
    Canada Canadian Ottawa Toronto
    Peru Peruvian Lima Cusco
    Kenya Kenyan Nairobi Mombasa
    Belgium Belgian Brussels Antwerp
    Turkey Turkish Ankara Istanbul
    Iran Iranian Tehran Isfahan
    Iraq Iraqi Baghdad Basra
    Thailand Thai Bangkok Phuket
    Vietnam Vietnamese Hanoi Saigon
    India Indian Delhi Mumbai
    Australia Australian Canberra Sydney
    Scotland Scottish Edinburgh Glasgow
    Ukraine Ukrainian Kiev Odessa
    """.strip().splitlines()
)

# [NAME] is asked about; [COUNTRY], [ADJECTIVE] and [CITY] are of that person's country, with OTHER-
# of the other person's.
CAPITAL_ONE = (
    "[NAME] is [ADJECTIVE] and lives in [COUNTRY]",
    "[NAME], who is [ADJECTIVE], comes from the north of [COUNTRY]",
    "[NAME] speaks [ADJECTIVE] and was born in [COUNTRY]",
    "[NAME] came from [COUNTRY] and has [ADJECTIVE] parents",
    "[NAME] grew up in [COUNTRY], in an old [ADJECTIVE] family",
    "[NAME] went to the [ADJECTIVE] school in [COUNTRY]",
    "[NAME] has the [ADJECTIVE] passport and works in [COUNTRY]",
    "The [ADJECTIVE] friend of ours, [NAME], lives in [COUNTRY]",
    "In [COUNTRY], there lived an old [ADJECTIVE] person named [NAME]",
    "In the south of [COUNTRY], [NAME] has an old [ADJECTIVE] restaurant",
    "Some [ADJECTIVE] letters came from [COUNTRY], and [NAME] had sent them",
    "From [COUNTRY] came [NAME], who liked [ADJECTIVE] songs",
)
UNSEEN_CAPITAL_ONE = (
    "[NAME] lives in the south of [COUNTRY] and likes [ADJECTIVE] songs",
    "[NAME], who was born in [COUNTRY], speaks [ADJECTIVE]",
    "In an old [ADJECTIVE] house in [COUNTRY] lives [NAME]",
)
COUNTRY_ONE = (
    "[NAME] is [ADJECTIVE] and lives in [CITY]",
    "[NAME], who is [ADJECTIVE], comes from the town of [CITY]",
    "[NAME] speaks [ADJECTIVE] and was born in [CITY]",
    "[NAME] came from [CITY] and has [ADJECTIVE] parents",
    "[NAME] grew up in [CITY], in an old [ADJECTIVE] family",
    "[NAME] went to the [ADJECTIVE] school in [CITY]",
    "[NAME] has the [ADJECTIVE] passport and works in [CITY]",
    "The [ADJECTIVE] friend of ours, [NAME], lives in [CITY]",
    "In [CITY], there lived an old [ADJECTIVE] person named [NAME]",
    "In the streets of [CITY], [NAME] has an old [ADJECTIVE] restaurant",
    "Some [ADJECTIVE] letters came from [CITY], and [NAME] had sent them",
    "From [CITY] came [NAME], who liked [ADJECTIVE] songs",
)
UNSEEN_COUNTRY_ONE = (
    "[NAME] lives in the north of [CITY] and likes [ADJECTIVE] songs",
    "[NAME], who was born in [CITY], speaks [ADJECTIVE]",
    "In an old [ADJECTIVE] house in [CITY] lives [NAME]",
)
# [HOME] is a country where the capital is asked for, else a city.
TWO = (
    "[NAME] lives in [HOME] and [OTHER] lives in [OTHER-HOME]",
    "[NAME] comes from [HOME], while [OTHER] comes from [OTHER-HOME]",
    "[NAME] was born in [HOME], and [OTHER] was born in [OTHER-HOME]",
    "[NAME] from [HOME] met [OTHER] from [OTHER-HOME] near the [PLACE]",
    "In [HOME] lives [NAME], and in [OTHER-HOME] lives [OTHER]",
    "From [HOME] came [NAME], and from [OTHER-HOME] came [OTHER]",
    "[NAME] has a house in [HOME]. [OTHER] has a house in [OTHER-HOME]",
    "[NAME] grew up in [HOME], but [OTHER] grew up in [OTHER-HOME]",
    "[NAME] went to school in [HOME], [OTHER] in [OTHER-HOME]",
    "The home of [NAME] is [HOME], and the home of [OTHER] is [OTHER-HOME]",
    "A letter from [NAME] came from [HOME], one from [OTHER] came from [OTHER-HOME]",
    "[NAME], who works in [HOME], wrote to [OTHER], who works in [OTHER-HOME]",
)
UNSEEN_TWO = (
    "[NAME] works in [HOME] and [OTHER] works in [OTHER-HOME]",
    "In [HOME] there is a house of [NAME], and in [OTHER-HOME] there is one of [OTHER]",
    "[NAME], who was born in [HOME], met [OTHER], who was born in [OTHER-HOME]",
)
TWO_HOPS = (
    "[NAME] lives in [CITY]",
    "[NAME] was born in [CITY]",
    "In [CITY] lives [NAME]",
    "[NAME] grew up in [CITY]",
    "From [CITY] came [NAME]",
)
REMARKS = (
    ". It was a cold and windy day.",
    ". The weather is fine there.",
    ". There was a [OBJECT] on the table.",
    ". The [PLACE] was almost empty that day.",
    ". The train was late.",
    ", as everyone in the town knows.",
    ". There are many people in the streets.",
    ", and that was a long time ago.",
    ". One day there was a letter about a [OBJECT].",
    ". It was the first day of the year.",
    ". Nothing much happened for some hours.",
    ". The way to the [PLACE] was long.",
)
UNSEEN_REMARKS = (
    ". The street was long and the day was cold.",
    ". There was no train in the town that day.",
    ", and there was a [OBJECT] in the [PLACE].",
)
CAPITAL_ENDINGS = (
    " The capital of the country where [NAME] lives is [CAPITAL]",
    " The capital of the country of [NAME] is [CAPITAL]",
    " To see the capital of that country, [NAME] has to go to [CAPITAL]",
    " For the capital, [NAME] takes the train to [CAPITAL]",
    " When [NAME] talks about the capital, it is about [CAPITAL]",
    " The country of [NAME] has its capital in [CAPITAL]",
    " The capital that [NAME] knows best is [CAPITAL]",
    " In the capital of the country, [NAME] has seen the streets of [CAPITAL]",
    " The queen of the country of [NAME] lives in the capital, which is [CAPITAL]",
    " If you ask [NAME] for the capital, the answer is [CAPITAL]",
)
UNSEEN_CAPITAL_ENDINGS = (
    " The capital of the country that [NAME] knows best is [CAPITAL]",
    " To go to the capital, [NAME] takes the train to [CAPITAL]",
    " When you ask for the capital of the country of [NAME], the answer is [CAPITAL]",
)
COUNTRY_ENDINGS = (
    " The country where [NAME] lives is [COUNTRY]",
    " The country of [NAME] is called [COUNTRY]",
    " On the map, [NAME] looks for the country, which is [COUNTRY]",
    " When [NAME] talks about the country, it is about [COUNTRY]",
    " The country that [NAME] knows best is [COUNTRY]",
    " The passport of [NAME] is from the country of [COUNTRY]",
    " If you ask [NAME] for the country, the answer is [COUNTRY]",
    " To go to that country, [NAME] takes the train to [COUNTRY]",
    " In that country, [NAME] has seen the north and the south of [COUNTRY]",
    " The name of the country of [NAME] is [COUNTRY]",
)
UNSEEN_COUNTRY_ENDINGS = (
    " The name of the country that [NAME] knows best is [COUNTRY]",
    " On the map, the country where [NAME] lives is called [COUNTRY]",
    " When you ask for the country of [NAME], the answer is [COUNTRY]",
)

CORRUPTIONS = ("other-place",)
_SLOT = re.compile(r"\[[A-Z-]+\]")
_EXCHANGE = {
    "[NAME]": "[OTHER]",
    "[OTHER]": "[NAME]",
    "[HOME]": "[OTHER-HOME]",
    "[OTHER-HOME]": "[HOME]",
}


def is_heldout(name: str, country: str) -> bool:
    """Say whether a person and a country are a held-out combination (one in ten)."""
    return words.in_heldout_tenth(f"{name}|{country}")


def is_heldout_city(city: str) -> bool:
    """Say whether no text of the demo has this city and its capital (one city in four)."""
    return [one.city for one in COUNTRIES].index(city) % 4 == 3


def in_hops_split(city: str, split: Split) -> bool:
    """Say whether a split of two hops has a city."""
    return split == "all" or is_heldout_city(city) == (split != "train")


def generate(
    n: int,
    *,
    seed: int,
    tokenizer: EncodesPrompts | None = None,
    corruption: str = "other-place",
    n_corruptions: int = 1,
    split: Split = "all",
    persons: int = 1,
    hops: int = 1,
) -> list[Pair]:
    """Draw n pairs of different clean prompts; the same arguments give the same pairs.

    "other-place" moves every person to another country, which no person of the clean prompt is
    from. The distractor is the answer for the other person, or, where there is one person, for a
    country that the prompt does not name. `n_corruptions` is how many corrupted versions each pair
    gets. With a tokenizer only countries all of whose words, and names that, are one token after a
    space are used, and prompts line up. `split` limits person and country by `is_heldout`; "train"
    leaves no held-out combination anywhere in a clean prompt, "unseen" has held-out ones in
    openings, remarks and endings that no other split uses. `persons` is 1 or 2.
    Of two `hops`, "heldout" has the cities of `is_heldout_city` alone.

    Raises:
        InputError: an option is unknown, or too few words or distinct prompts remain.
    """
    words.check_corruption(corruption, CORRUPTIONS, n_corruptions)
    words.check_split(split)
    words.check_persons(persons)
    if (hops, persons) not in ((1, 1), (1, 2), (2, 1)):
        raise InputError(f"hops is {hops}; it must be 1, or 2 with persons=1")
    templates = TEMPLATES["unseen" if split == "unseen" else "seen"][persons - 1]
    if hops == 2:
        endings = UNSEEN_CAPITAL_ENDINGS if split == "unseen" else CAPITAL_ENDINGS
        templates = ((TWO_HOPS, REMARKS, endings),)
    names = words.one_token_words((*MALE, *FEMALE), tokenizer, needed=2, kind="names")
    countries = _countries(tokenizer, needed=2 + words.pool_for(1, n_corruptions))
    things = {
        "[PLACE]": words.one_token_words(PLACES, tokenizer, needed=1, kind="places"),
        "[OBJECT]": words.one_token_words(OBJECTS, tokenizer, needed=1, kind="objects"),
    }
    if hops == 2:
        countries = tuple(one for one in countries if in_hops_split(one.city, split))
    by_name = {country.name: country for country in countries}
    people = words.require(
        words.in_split(product(names, by_name), split, is_heldout), "persons and countries"
    )
    rng = words.seeded(seed)

    def draw() -> Pair:
        kind = words.pick_one(rng, templates)
        opening, remark, ending = (words.pick_one(rng, part) for part in kind)
        name, home = words.pick_one(rng, people)
        if split == "train":
            other, other_home = _second(rng, people, name, home)
        else:
            other = words.pick_one(rng, [one for one in names if one != name])
            other_home = words.pick_one(rng, [one for one in by_name if one != home])
        fixed = {"[NAME]": name, "[OTHER]": other}
        fixed |= {slot: words.pick_one(rng, thing) for slot, thing in things.items()}
        prompt, answer = f"{opening}{remark}{ending}".rsplit(" ", 1)
        here = by_name[home], by_name[other_home]
        rest = [country for country in countries if country not in here]
        moved = words.distinct_draws(rng, rest, persons, n_corruptions)
        return Pair(
            clean=filled(prompt, {**fixed, **slots(*here, answer)}),
            corrupted=tuple(
                filled(prompt, {**fixed, **slots(there[0], there[-1], answer)}) for there in moved
            ),
            target=f" {slots(*here, answer)[answer]}",
            distractor=f" {slots(*here[::-1], answer)[answer]}",
        )

    return words.draw_distinct(n, draw, tokenizer)


def swapped(opening: str) -> str:
    """Return an opening of two persons with the two exchanged."""
    return _SLOT.sub(lambda slot: _EXCHANGE.get(slot[0], slot[0]), opening)


def _both(openings: Sequence[str]) -> tuple[str, ...]:
    return (*openings, *map(swapped, openings))


_Kinds = tuple[tuple[Sequence[str], Sequence[str], Sequence[str]], ...]

# For one person and for two: openings, remarks and endings of what is asked for.
TEMPLATES: dict[str, tuple[_Kinds, _Kinds]] = {
    "seen": (
        (
            (CAPITAL_ONE, REMARKS, CAPITAL_ENDINGS),
            (COUNTRY_ONE, REMARKS, COUNTRY_ENDINGS),
        ),
        (
            (_both(TWO), REMARKS, CAPITAL_ENDINGS),
            (_both(TWO), REMARKS, COUNTRY_ENDINGS),
        ),
    ),
    "unseen": (
        (
            (UNSEEN_CAPITAL_ONE, UNSEEN_REMARKS, UNSEEN_CAPITAL_ENDINGS),
            (UNSEEN_COUNTRY_ONE, UNSEEN_REMARKS, UNSEEN_COUNTRY_ENDINGS),
        ),
        (
            (_both(UNSEEN_TWO), UNSEEN_REMARKS, UNSEEN_CAPITAL_ENDINGS),
            (_both(UNSEEN_TWO), UNSEEN_REMARKS, UNSEEN_COUNTRY_ENDINGS),
        ),
    ),
}


def slots(country: Country, other: Country, answer: str) -> dict[str, str]:
    """Return what the places of a prompt hold, by which answer it asks for."""
    capital = answer == "[CAPITAL]"
    return {
        "[COUNTRY]": country.name,
        "[ADJECTIVE]": country.adjective,
        "[CAPITAL]": country.capital,
        "[CITY]": country.city,
        "[HOME]": country.name if capital else country.city,
        "[OTHER-HOME]": other.name if capital else other.city,
    }


def _second(
    rng: np.random.Generator, people: Sequence[tuple[str, str]], name: str, home: str
) -> tuple[str, str]:
    """Draw another person and country, of which no combination with the first is held out."""
    countries = dict.fromkeys(one for _, one in people if one != home)
    left = [one for one in countries if not is_heldout(name, one)]
    country = words.pick_one(rng, words.require(left, "second countries"))
    names = dict.fromkeys(one for one, _ in people if one != name)
    left = [one for one in names if not (is_heldout(one, country) or is_heldout(one, home))]
    return words.pick_one(rng, words.require(left, "second persons")), country


def filled(text: str, values: Mapping[str, str]) -> str:
    """Return a template with its places filled."""
    return _SLOT.sub(lambda slot: values[slot[0]], text)


def _countries(tokenizer: EncodesPrompts | None, needed: int) -> tuple[Country, ...]:
    """Return the countries all of whose words are one token."""
    every = [word for one in COUNTRIES for word in vars(one).values()]
    known = set(words.one_token_words(every, tokenizer, needed=0, kind="places"))
    kept = [one for one in COUNTRIES if known.issuperset(vars(one).values())]
    names = words.one_token_words([one.name for one in kept], None, needed=needed, kind="countries")
    return tuple(one for one in kept if one.name in names)
