"""Indirect object identification: two names, one repeats, the other is the answer.

In a template [A] is the indirect object (the answer), [B] the subject, named twice. BABA
templates name the subject first; their ABBA twins swap the first clause.
Source: Wang et al. 2022 (arXiv 2211.00593); the S2 corruptions are those of EAP-IG and MIB.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pie_jax.errors import InputError
from pie_jax.tasks import words
from pie_jax.tasks.encode import EncodesPrompts
from pie_jax.tasks.records import Pair
from pie_jax.tasks.words import Split

NAMES = words.word_list("""
    Aaron Adam Alan Alex Alice Amy Andrew Anna Anthony Arthur Ben Brian Carl Charles Chris
    Christian Christopher Clark Crystal Dan Daniel David Dean Diana Edward Elizabeth Emily Emma
    Eric Erica Fiona Frank George Grace Graham Greg Harry Helen Henry Howard Ian Jack Jacob James
    Jamie Jane Jason Jeff Jennifer Jeremy Jessica Joe John Jonathan Joseph Joshua Julia Justin
    Karen Kate Katie Keith Kelly Kevin Kyle Laura Leon Lewis Linda Lisa Luke Marcus Maria Mark
    Martin Mary Matthew Michael Michelle Neil Nicholas Oliver Patrick Paul Peter Rachel Richard
    Robert Rose Roy Ruby Sarah Scott Simon Stephen Steven Thomas Tom William
""")
PLACES = ("store", "garden", "restaurant", "school", "hospital", "office", "house", "station")
OBJECTS = ("ring", "kiss", "bone", "basketball", "computer", "necklace", "drink", "snack")

BABA_TEMPLATES = (
    "Then, [B] and [A] went to the [PLACE]. [B] gave a [OBJECT] to",
    "Then, [B] and [A] had fun together at the [PLACE]. [B] gave a [OBJECT] to",
    "Then, [B] and [A] were busy at the [PLACE]. [B] decided to give a [OBJECT] to",
    "Then, [B] and [A] were looking around the [PLACE]. [B] decided to give a [OBJECT] to",
    "Then, [B] and [A] had a long talk. Afterwards [B] said to",
    "Later, [B] and [A] met at the [PLACE], and [B] handed a [OBJECT] to",
    "When [B] and [A] got to the [PLACE], [B] offered a [OBJECT] to",
    "When [B] and [A] found a [OBJECT] at the [PLACE], [B] passed it to",
    "While [B] and [A] were walking to the [PLACE], [B] gave a [OBJECT] to",
    "While [B] and [A] waited at the [PLACE], [B] showed a [OBJECT] to",
    "After [B] and [A] came back from the [PLACE], [B] brought a [OBJECT] to",
    "After the lunch, [B] and [A] went to the [PLACE], where [B] gave a [OBJECT] to",
    "Last week, [B] and [A] stayed at the [PLACE] until [B] sent a [OBJECT] to",
    "The friends [B] and [A] were sitting in the [PLACE] when [B] threw a [OBJECT] to",
    "Once the [PLACE] had closed, [B] and [A] went home and [B] gave a [OBJECT] to",
)
ABBA_TEMPLATES = tuple(text.replace("[B] and [A]", "[A] and [B]") for text in BABA_TEMPLATES)
TEMPLATES = BABA_TEMPLATES + ABBA_TEMPLATES
# Of split "unseen": worded as no other template here, nor in the demo's text.
_UNSEEN = (
    "It was raining when [B] and [A] came to the [PLACE], so [B] lent a [OBJECT] to",
    "Both [B] and [A] liked the [PLACE], and last summer [B] sold a [OBJECT] to",
    "At the door of the [PLACE], [B] and [A] stood for an hour before [B] carried a [OBJECT] to",
    "People saw [B] and [A] in the [PLACE], and there [B] was giving a [OBJECT] to",
    "As soon as [B] and [A] had left the [PLACE], [B] returned the [OBJECT] to",
    "My friends [B] and [A] work at the [PLACE]. Every day [B] brings a [OBJECT] to",
    "Nobody knew why [B] and [A] were at the [PLACE], but [B] gave the old [OBJECT] to",
    "The town had one [PLACE]. There [B] and [A] talked, and then [B] sent a letter to",
)
UNSEEN_TEMPLATES = (
    *_UNSEEN,
    *(text.replace("[B] and [A]", "[A] and [B]") for text in _UNSEEN),
)

# How many names, beside the prompt's own two, one corrupted version brings in.
_NEW_NAMES = {"s2-random": 1, "s2-io": 0, "abc": 3}
CORRUPTIONS = tuple(_NEW_NAMES)


def is_heldout(a: str, b: str) -> bool:
    """Say whether two names, in either order, are a held-out combination (one in ten)."""
    return words.in_heldout_tenth("|".join(sorted((a, b))))


def generate(
    n: int,
    *,
    seed: int,
    tokenizer: EncodesPrompts | None = None,
    corruption: str = "s2-random",
    names: Sequence[str] | None = None,
    templates: Sequence[str] | None = None,
    n_corruptions: int = 1,
    split: Split = "all",
) -> list[Pair]:
    """Draw n pairs of different clean prompts; the same arguments give the same pairs.

    `corruption` is "s2-random" (second subject -> a third name), "s2-io" (second subject
    -> the indirect object) or "abc" (three other names in the three places).
    `n_corruptions` is how many different corrupted versions each pair gets. With a
    tokenizer only words of one token after a space are used and prompts line up.
    `split` limits the two names of the clean prompt by `is_heldout`; names that a
    corruption brings in are not limited. "unseen" has held-out names in `UNSEEN_TEMPLATES`.

    Raises:
        InputError: an option is unknown, or too few words or distinct prompts remain.
    """
    words.check_corruption(corruption, CORRUPTIONS, n_corruptions)
    if corruption == "s2-io" and n_corruptions > 1:
        raise InputError(
            f"corruption s2-io has one corrupted version per prompt and {n_corruptions} are "
            "asked for; set n_corruptions to 1 or use s2-random or abc"
        )
    own = UNSEEN_TEMPLATES if split == "unseen" else TEMPLATES
    texts = _checked_templates(own if templates is None else templates)
    name_pool = words.one_token_words(
        NAMES if names is None else names,
        tokenizer,
        needed=2 + words.pool_for(_NEW_NAMES[corruption], n_corruptions),
        kind="names",
    )
    places = words.one_token_words(PLACES, tokenizer, needed=1, kind="places")
    objects = words.one_token_words(OBJECTS, tokenizer, needed=1, kind="objects")
    combinations = words.split_combinations(name_pool, split, is_heldout)
    _check_enough(n, texts, len(combinations), len(places), len(objects))
    rng = words.seeded(seed)

    def draw() -> Pair:
        a, b = words.pick_one(rng, combinations)
        text = words.pick_one(rng, texts)
        text = text.replace("[PLACE]", words.pick_one(rng, places))
        text = text.replace("[OBJECT]", words.pick_one(rng, objects))
        others = [name for name in name_pool if name not in (a, b)]
        new_names = _corrupted_names(rng, corruption, a, b, others, n_corruptions)
        return Pair(
            clean=_fill(text, a, b, b),
            corrupted=tuple(_fill(text, *trio) for trio in new_names),
            target=f" {a}",
            distractor=f" {b}",
        )

    return words.draw_distinct(n, draw, tokenizer)


def _fill(text: str, a: str, first_b: str, second_b: str) -> str:
    return text.replace("[A]", a).replace("[B]", first_b, 1).replace("[B]", second_b, 1)


def _corrupted_names(
    rng: np.random.Generator, corruption: str, a: str, b: str, others: Sequence[str], count: int
) -> list[tuple[str, ...]]:
    """Return `count` different (indirect object, first subject, second subject)."""
    if corruption == "s2-io":
        return [(a, b, a)]
    draws = words.distinct_draws(rng, others, _NEW_NAMES[corruption], count)
    return draws if corruption == "abc" else [(a, b, *draw) for draw in draws]


def _checked_templates(templates: Sequence[str]) -> tuple[str, ...]:
    for text in templates:
        if text.count("[A]") != 1 or text.count("[B]") != 2:
            raise InputError(
                f"template {text!r} must name [A] once and [B] twice; correct it or leave it out"
            )
    if not templates:
        raise InputError("there are no templates; give at least one")
    return tuple(dict.fromkeys(templates))


def _check_enough(n: int, texts: Sequence[str], pairs: int, places: int, objects: int) -> None:
    """Refuse at once what drawing could only find out after many attempts."""
    distinct = sum(
        pairs * (places if "[PLACE]" in text else 1) * (objects if "[OBJECT]" in text else 1)
        for text in texts
    )
    if n > distinct:
        raise InputError(
            f"{n} pairs are asked for and only {distinct} different prompts can be made; "
            "ask for fewer, or give more names or templates"
        )
