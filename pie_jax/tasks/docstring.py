"""Doc-String: name the next argument of a Python function's docstring.

The docstring has described the arguments m1 and m2 of the definition, in order, and the
answer is m3. Source: Heimersheim & Janiak's docstring circuit, as in ACDC (arXiv 2304.14997).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pie_jax.tasks import words
from pie_jax.tasks.encode import EncodesPrompts
from pie_jax.tasks.records import Pair
from pie_jax.tasks.words import Split

METHOD_NAMES = words.word_list("""
    load read write run build create update find check convert process parse render send
    apply start stop open close print
""")
ARGUMENTS = words.word_list("""
    files obj state shape name data path size index value key image model user group order
    option count result source target text type filter event token node table line page
    config item label color width height length offset limit date time mode level version
    format message field parent status context block array input output query request
    response server port host code role
""")
NOUNS = words.word_list("""
    song oil sun family day tree book river stone water fire road city door window chair
    hand head voice paper letter market bridge flower forest garden island kitchen lake
    machine mountain night ocean party picture police queen summer tower village
""")

# D1 and D2 are M1 and M2, and other names in a corrupted prompt.
TEMPLATE = (
    "\ndef [METHOD](self, [P1], [P2], [M1], [M2], [M3], [S1]):\n"
    '    """[N1] [N2] [N3]\n\n'
    "    :param [D1]: [N4] [N5]\n"
    "    :param [D2]: [N6] [N7]\n"
    "    :param"
)
# Of split "unseen": written as no other template here, nor in the demo's text.
UNSEEN_TEMPLATES = (
    "\ndef [METHOD]_all(self, [P1], [P2], [M1], [M2], [M3], [S1]):\n"
    '    """[N1] the [N2] of the [N3]\n\n'
    "    :param [D1]: [N4] [N5]\n"
    "    :param [D2]: [N6] [N7]\n"
    "    :param",
    "\ndef [METHOD](self, [P1], [P2], [M1], [M2], [M3], [S1]):\n"
    '    """[N1]: [N2], [N3]\n\n'
    "    :arg [D1]: the [N4] and [N5]\n"
    "    :arg [D2]: the [N6] and [N7]\n"
    "    :arg",
    "\n    def [METHOD](self, [P1], [P2], [M1], [M2], [M3], [S1]) -> None:\n"
    '        """[N1] [N2]. [N3]\n\n'
    "        :param [D1]: [N4]. [N5]\n"
    "        :param [D2]: [N6]. [N7]\n"
    "        :param",
    "\nclass [N1]:\n    def [METHOD](self, [P1], [P2], [M1], [M2], [M3], [S1]):\n"
    '        """[N2] [N3]\n\n'
    "        @param [D1]: [N4] [N5]\n"
    "        @param [D2]: [N6] [N7]\n"
    "        @param",
)

CORRUPTIONS = ("random-random",)

_SLOT = re.compile(r"\[[A-Z]+\d?\]")
_NAMED = [f"[{name}]" for name in words.word_list("P1 P2 S1 M1 M2 M3 D1 D2 N1 N2 N3 N4 N5 N6 N7")]
_ARGUMENTS_IN_CLEAN = 6
_ARGUMENTS_REPLACED = 5
_NOUNS_IN_PROMPT = 7


def is_heldout(m1: str, m2: str, m3: str) -> bool:
    """Say whether three middle arguments are a held-out combination (one in ten).

    The hash covers m2 and m3 only: with a held-out combination left out, a training text
    never shows m3 after m2, so remembering what follows m2 gives no answer.
    """
    del m1
    return words.in_heldout_tenth(f"{m2}|{m3}")


def generate(
    n: int,
    *,
    seed: int,
    tokenizer: EncodesPrompts | None = None,
    corruption: str = "random-random",
    templates: Sequence[str] | None = None,
    n_corruptions: int = 1,
    split: Split = "all",
) -> list[Pair]:
    """Draw n pairs of different clean prompts; the same arguments give the same pairs.

    "random-random" replaces the three middle arguments of the definition and the two of
    the docstring by five other names. The distractor is p1, p2 or s1, drawn: they stand
    in the clean definition like the answer, so preferring m3 takes more than copying any
    argument. `n_corruptions` is how many corrupted versions each pair gets. With a
    tokenizer only words of one token after a space are used and prompts line up.
    `split` limits the clean prompt's (m1, m2, m3) by `is_heldout`; "unseen" has held-out ones in
    `UNSEEN_TEMPLATES`. `templates` are others than the published one.

    Raises:
        InputError: an option is unknown, or too few words or distinct prompts remain.
    """
    words.check_corruption(corruption, CORRUPTIONS, n_corruptions)
    methods = words.one_token_words(METHOD_NAMES, tokenizer, needed=1, kind="method names")
    nouns = words.one_token_words(NOUNS, tokenizer, needed=_NOUNS_IN_PROMPT, kind="nouns")
    arguments = words.one_token_words(
        ARGUMENTS,
        tokenizer,
        needed=_ARGUMENTS_IN_CLEAN + words.pool_for(_ARGUMENTS_REPLACED, n_corruptions),
        kind="argument names",
    )
    middles = words.split_combinations(arguments, split, lambda m2, m3: is_heldout("", m2, m3))
    if templates is None:
        templates = UNSEEN_TEMPLATES if split == "unseen" else (TEMPLATE,)
    rng = words.seeded(seed)

    def draw() -> Pair:
        # The first prompts of a seed are pinned: one template takes no draw.
        form = templates[0] if len(templates) == 1 else words.pick_one(rng, templates)
        m2, m3 = words.pick_one(rng, middles)
        rest = [name for name in arguments if name not in (m2, m3)]
        m1, p1, p2, s1 = words.pick(rng, rest, 4)
        others = [name for name in rest if name not in (m1, p1, p2, s1)]
        method = words.pick_one(rng, methods)
        text = words.pick(rng, nouns, _NOUNS_IN_PROMPT)
        outer = (p1, p2, s1)
        return Pair(
            clean=_prompt(form, method, outer, (m1, m2, m3), (m1, m2), text),
            corrupted=tuple(
                _prompt(form, method, outer, names[:3], names[3:], text)
                for names in words.distinct_draws(rng, others, _ARGUMENTS_REPLACED, n_corruptions)
            ),
            target=f" {m3}",
            distractor=f" {words.pick_one(rng, outer)}",
        )

    return words.draw_distinct(n, draw, tokenizer)


def _prompt(
    form: str,
    method: str,
    outer: Sequence[str],
    middle: Sequence[str],
    described: Sequence[str],
    nouns: Sequence[str],
) -> str:
    names = (*outer, *middle, *described, *nouns)
    values = {"[METHOD]": method, **dict(zip(_NAMED, names, strict=True))}
    return _SLOT.sub(lambda slot: values[slot[0]], form)
