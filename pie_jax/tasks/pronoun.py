"""Pronoun: a noun and a name, or a name and a role, decide some way on whether he or she follows.

Prompts are an opening, a remark about something else and an ending. In an opening of one person
the noun and the name both tell the gender ("The queen, whose name is Helen, ..."), and so does a
pronoun in a sentence between ("Everyone knew her house."). With `persons=2` there are two of
different gender, and the ending names one of them by a role that tells nothing ("the baker"): the
answer takes finding whose role that is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import product

import numpy as np

from pie_jax.tasks import words
from pie_jax.tasks.encode import EncodesPrompts
from pie_jax.tasks.ioi import OBJECTS, PLACES
from pie_jax.tasks.records import Pair
from pie_jax.tasks.words import Split

# The names of IOI whose gender is not in doubt.
MALE = words.word_list("""
    Aaron Adam Alan Andrew Anthony Arthur Ben Brian Carl Charles Christopher Daniel David Edward
    Eric Frank George Graham Greg Harry Henry Howard Ian Jack Jacob James Jason Jeff Jeremy Joe John
    Jonathan Joseph Joshua Justin Keith Kevin Kyle Lewis Luke Marcus Mark Martin Matthew Michael
    Neil Nicholas Oliver Patrick Paul Peter Richard Robert Roy Scott Simon Stephen Steven Thomas Tom
    William
""")
FEMALE = words.word_list("""
    Alice Amy Anna Crystal Diana Elizabeth Emily Emma Erica Fiona Grace Helen Jane Jennifer Jessica
    Julia Karen Kate Katie Laura Linda Lisa Maria Mary Michelle Rachel Rose Ruby Sarah
""")
NOUNS = tuple(
    zip(
        words.word_list(
            "king prince father brother uncle son husband boy man actor waiter nephew grandfather"
        ),
        words.word_list(
            "queen princess mother sister aunt daughter wife girl woman actress waitress niece "
            "grandmother"
        ),
        strict=True,
    )
)
ROLES = words.word_list("""
    baker doctor teacher farmer painter singer driver lawyer nurse pilot sailor tailor writer dancer
    student cook judge guard gardener poet
""")
PRONOUNS = {"[SHE]": ("he", "she"), "[HER]": ("his", "her"), "[HER.]": ("him", "her")}

ONE = (
    "The [NOUN], whose name is [NAME], went to the [PLACE]",
    "The [NOUN], who is called [NAME], came back from the [PLACE]",
    "The [NOUN] is called [NAME] and lives near the [PLACE]",
    "[NAME], the [NOUN] of a [ROLE], went to the [PLACE]",
    "[NAME] was the [NOUN] of the [ROLE] at the [PLACE]",
    "Once there was a [NOUN] named [NAME] in the [PLACE]",
    "Once a [NOUN] with the name [NAME] came to the [PLACE]",
    "A [NOUN] with a [OBJECT], [NAME], was waiting at the [PLACE]",
    "There is a [NOUN] at the [PLACE], and the name is [NAME]",
    "This is a story about [NAME], the [NOUN] in the [PLACE]",
    "At the [PLACE] lived a [NOUN], and [NAME] was the name",
    "A [NOUN] was at the [PLACE]. The name was [NAME]",
    "My [NOUN] [NAME] found a [OBJECT] at the [PLACE]",
    "Our [NOUN] [NAME] used to work at the [PLACE]",
    "As a young [NOUN], [NAME] often came to the [PLACE]",
    "The old [NOUN] left the [PLACE]. It was [NAME]",
)
UNSEEN_ONE = (
    "The [NOUN] in front of the [PLACE] is [NAME], who came with a [OBJECT]",
    "[NAME] is a [NOUN] who was often seen near the [PLACE]",
    "Yesterday the young [NOUN] [NAME] was walking to the [PLACE] with a [OBJECT]",
)
TWO = (
    "[NAME] is a [ROLE] and [OTHER] is a [OTHER-ROLE]",
    "[NAME] works as a [ROLE], while [OTHER] works as a [OTHER-ROLE]",
    "[NAME] the [ROLE] and [OTHER] the [OTHER-ROLE] met at the [PLACE]",
    "The [ROLE], [NAME], and the [OTHER-ROLE], [OTHER], came to the [PLACE]",
    "The [ROLE] is called [NAME], and the [OTHER-ROLE] is called [OTHER]",
    "The [ROLE] has the name [NAME]. The [OTHER-ROLE] has the name [OTHER]",
    "[NAME] was the [ROLE] of the town, and [OTHER] was the [OTHER-ROLE]",
    "[NAME] became a [ROLE], but [OTHER] became a [OTHER-ROLE]",
    "At the [PLACE] there was a [ROLE] named [NAME] and a [OTHER-ROLE] named [OTHER]",
    "They asked for a [ROLE], [NAME], and for a [OTHER-ROLE], [OTHER]",
    "[NAME], a [ROLE], met [OTHER], a [OTHER-ROLE], near the [PLACE]",
    "A [ROLE] whose name is [NAME] saw a [OTHER-ROLE] whose name is [OTHER]",
)
UNSEEN_TWO = (
    "[NAME] was a [ROLE] at the [PLACE], and [OTHER] was a [OTHER-ROLE]",
    "A [ROLE] called [NAME] and a [OTHER-ROLE] called [OTHER] went to the [PLACE]",
    "[NAME], who is a [ROLE], often met [OTHER], who is a [OTHER-ROLE]",
)
REMARKS = (
    ". It was a cold and windy day.",
    ". The weather was fine, and there was a [OBJECT] on the table.",
    ". The [PLACE] was almost empty that day.",
    ". There was a [OBJECT] near the door.",
    ". The train was late.",
    ". Many people were waiting in the street.",
    ". A [OBJECT] was lying on the ground.",
    ". That week there was a lot to do.",
    ", as everyone in the town knows.",
    ". The way to the [PLACE] was long.",
    ". Nothing much happened for some hours.",
    ". It was the first day of the year.",
    ". The street in front of the [PLACE] was dark.",
    ". The lunch was good.",
    ", and that was a long time ago.",
    ". The town had no [PLACE] at that time.",
)
# Of one person, after the remark.
BETWEEN = (
    " It was [HER] first day in the town.",
    " The street in front of [HER] house was dark.",
    " The people talked about [HER] friends.",
    " There was a letter in [HER] room.",
    " Nobody had seen [HER] [OBJECT].",
    " Everyone knew [HER] house.",
)
UNSEEN_BETWEEN = (
    " The children knew [HER] old songs.",
    " A friend of the family was in [HER] house.",
    " That day there was a lot to do in [HER] room.",
)
UNSEEN_REMARKS = (
    ". The street was long and the day was cold.",
    ", and there was an old [OBJECT] in the town.",
    ". There was no train in the town that week.",
    ". The door of the [PLACE] was old.",
)
ENDINGS = (
    " In the evening [SHE]",
    " Later that day [SHE]",
    " Everyone said that [SHE]",
    " It is true that [SHE]",
    " The friends waited until [SHE]",
    " People were happy because [SHE]",
    " After lunch [SHE]",
    " Then, without a word, [SHE]",
    " The letter said that [SHE]",
    " Some of the people thanked [HER.]",
    " The others gave a [OBJECT] to [HER.]",
    " Nobody wanted to talk about [HER.]",
    " There was a letter for [HER.]",
    " The children laughed with [HER.]",
    " The door opened, and there was [HER]",
    " In the room one could see [HER]",
    " A friend had found [HER]",
    " They talked for hours about the [OBJECT] in [HER]",
)
UNSEEN_ENDINGS = (
    " The people of the town said that [SHE]",
    " The children were happy because [SHE]",
    " Everyone in the room talked about [HER.]",
    " A friend of the children had found [HER]",
    " Nobody in the street had a letter for [HER.]",
)
# Of two persons: the role says whom the pronoun is for.
ROLE_ENDINGS = (
    " In the evening the [ROLE] said that [SHE]",
    " The [ROLE] was happy because [SHE]",
    " People liked the [ROLE] because [SHE]",
    " They waited for the [ROLE] until [SHE]",
    " The [ROLE] went home when [SHE]",
    " Everyone knows that the [ROLE] said that [SHE]",
    " The [ROLE] could not find [HER]",
    " After lunch the [ROLE] had forgotten [HER]",
    " The [ROLE] was looking at [HER]",
    " Then the [ROLE] opened [HER]",
    " When the [ROLE] came home, there was a letter for [HER.]",
    " When they saw the [ROLE], they thanked [HER.]",
    " They called the [ROLE] and gave a [OBJECT] to [HER.]",
    " The friends of the [ROLE] laughed with [HER.]",
)
UNSEEN_ROLE_ENDINGS = (
    " Later that day the [ROLE] was sad because [SHE]",
    " In the street the [ROLE] was looking at [HER]",
    " After lunch the friends of the [ROLE] thanked [HER.]",
    " People knew that the [ROLE] had forgotten [HER]",
    " Some of the people liked the [ROLE] because [SHE]",
)

CORRUPTIONS = ("other-gender",)
_SLOT = re.compile(r"\[[A-Z.-]+\]")
_PERSONS = {"[OTHER]": "[NAME]", "[NAME]": "[OTHER]"}
_ROLES = {"[OTHER-ROLE]": "[ROLE]", "[ROLE]": "[OTHER-ROLE]"}


def is_heldout(name: str, word: str) -> bool:
    """Say whether a name and a noun, or a role, are a held-out combination (one in ten)."""
    return words.in_heldout_tenth(f"{name}|{word}")


def generate(
    n: int,
    *,
    seed: int,
    tokenizer: EncodesPrompts | None = None,
    corruption: str = "other-gender",
    n_corruptions: int = 1,
    split: Split = "all",
    persons: int = 1,
) -> list[Pair]:
    """Draw n pairs of different clean prompts; the same arguments give the same pairs.

    "other-gender" replaces every name by one of the other gender, and a noun by its counterpart.
    The distractor is the pronoun of the other gender. `n_corruptions` is how many corrupted
    versions each pair gets. With a tokenizer only words of one token after a space are used and
    prompts line up. `split` limits name and noun (of one person) or name and role (of two) by
    `is_heldout`; "train" leaves no held-out combination anywhere in a clean prompt, "unseen" has
    held-out ones in openings, remarks and endings that no other split uses. `persons` is 1 or 2.

    Raises:
        InputError: an option is unknown, or too few words or distinct prompts remain.
    """
    words.check_corruption(corruption, CORRUPTIONS, n_corruptions)
    words.check_split(split)
    words.check_persons(persons)
    source = _Words(tokenizer, n_corruptions, split)
    parts = TEMPLATES["unseen" if split == "unseen" else "seen"][persons - 1]
    between = (UNSEEN_BETWEEN if split == "unseen" else BETWEEN) if persons == 1 else ("",)
    rng = words.seeded(seed)

    def draw() -> Pair:
        opening, remark, ending = (words.pick_one(rng, part) for part in parts)
        values = source.fill(rng, opening)
        text = "".join((opening, remark, words.pick_one(rng, between), ending))
        for slot in ("[PLACE]", "[OBJECT]"):
            # The same place and object throughout, so that texts stay about one thing.
            values[slot] = words.pick_one(rng, source.things[slot])
        prompt, answer = text.rsplit(" ", 1)
        gender = int(values["[NAME]"] in FEMALE)
        return Pair(
            clean=_filled(prompt, values),
            corrupted=tuple(
                _filled(prompt, {**values, **changed})
                for changed in source.corrupted(rng, values, n_corruptions)
            ),
            target=f" {PRONOUNS[answer][gender]}",
            distractor=f" {PRONOUNS[answer][1 - gender]}",
        )

    return words.draw_distinct(n, draw, tokenizer)


def swapped(opening: str) -> str:
    """Return an opening of two persons with the two exchanged."""
    exchange = {**_PERSONS, **_ROLES}
    return _SLOT.sub(lambda slot: exchange.get(slot[0], slot[0]), opening)


_Parts = tuple[Sequence[str], Sequence[str], Sequence[str]]


def _both(openings: Sequence[str]) -> tuple[str, ...]:
    return (*openings, *map(swapped, openings))


# Of one person and of two.
TEMPLATES: dict[str, tuple[_Parts, _Parts]] = {
    "seen": ((ONE, REMARKS, ENDINGS), (_both(TWO), REMARKS, ROLE_ENDINGS)),
    "unseen": (
        (UNSEEN_ONE, UNSEEN_REMARKS, UNSEEN_ENDINGS),
        (_both(UNSEEN_TWO), UNSEEN_REMARKS, UNSEEN_ROLE_ENDINGS),
    ),
}


def _filled(text: str, values: dict[str, str]) -> str:
    gender = int(values["[NAME]"] in FEMALE)
    said = {slot: pair[gender] for slot, pair in PRONOUNS.items()}
    return _SLOT.sub(lambda slot: {**said, **values}[slot[0]], text)


class _Words:
    """The words that a tokenizer can take, and how they are drawn together."""

    def __init__(self, tokenizer: EncodesPrompts | None, n_corruptions: int, split: Split) -> None:
        needed = 1 + n_corruptions
        self.names = tuple(
            words.one_token_words(names, tokenizer, needed=needed, kind=f"{kind} names")
            for names, kind in ((MALE, "male"), (FEMALE, "female"))
        )
        flat = words.one_token_words(
            [noun for pair in NOUNS for noun in pair], tokenizer, needed=2, kind="nouns"
        )
        self.nouns = tuple(pair for pair in NOUNS if set(pair) <= set(flat))
        self.roles = words.one_token_words(ROLES, tokenizer, needed=2, kind="roles")
        self.things = {
            "[PLACE]": words.one_token_words(PLACES, tokenizer, needed=1, kind="places"),
            "[OBJECT]": words.one_token_words(OBJECTS, tokenizer, needed=1, kind="objects"),
        }
        # What an answer needs to be told from the other.
        for pronouns in PRONOUNS.values():
            words.one_token_words(pronouns, tokenizer, needed=2, kind="pronouns")
        words.require(self.nouns, "pairs of nouns")

        self.only_train = split == "train"
        # By gender, for one person and for two.
        self.people = tuple(
            tuple(
                words.require(words.in_split(product(names, kinds), split, is_heldout), "persons")
                for kinds in ([pair[gender] for pair in self.nouns], self.roles)
            )
            for gender, names in enumerate(self.names)
        )

    def fill(self, rng: np.random.Generator, opening: str) -> dict[str, str]:
        """Draw the persons of an opening."""
        gender = int(rng.integers(2))
        two = "[OTHER]" in opening
        name, word = words.pick_one(rng, self.people[gender][two])

        def one_of(pairs: Iterable[tuple[str, str]], part: int) -> str:
            left = [pair[part] for pair in pairs if not (self.only_train and is_heldout(*pair))]
            return words.pick_one(rng, words.require(left, "names or roles"))

        if not two:
            role = one_of(product([name], self.roles), 1)
            return {"[NAME]": name, "[NOUN]": word, "[ROLE]": role}
        other = one_of(product(self.names[1 - gender], [word]), 0)
        roles = [
            role
            for role in self.roles
            if role != word and not (self.only_train and is_heldout(name, role))
        ]
        role = one_of(product([other], roles), 1)
        return {"[NAME]": name, "[ROLE]": word, "[OTHER]": other, "[OTHER-ROLE]": role}

    def corrupted(
        self, rng: np.random.Generator, values: dict[str, str], count: int
    ) -> list[dict[str, str]]:
        """Draw the persons of the other gender that take the places of those there."""
        persons = [slot for slot in ("[NAME]", "[OTHER]") if slot in values]
        pools = [
            words.pick(rng, self.names[1 - int(values[slot] in FEMALE)], count) for slot in persons
        ]
        noun = values.get("[NOUN]")
        pair = next((pair for pair in self.nouns if noun in pair), None)
        counterpart = {} if noun is None or pair is None else {"[NOUN]": pair[1 - pair.index(noun)]}
        changed = [dict(zip(persons, names, strict=True)) for names in zip(*pools, strict=True)]
        return [{**names, **counterpart} for names in changed]
