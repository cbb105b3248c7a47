"""The kinds of documents in the demo's training text, each drawn from a seed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from pie_jax.demo.text.docstrings import standard_library_docstrings
from pie_jax.demo.text.forms import (
    FUNCTION_FORMS,
    IOI_FORMS,
    LATER_FUNCTION_FORMS,
    LATER_IOI_FORMS,
)
from pie_jax.tasks import docstring, ioi

Draw = Callable[[int, np.random.Generator], list[str]]

# Names, places and objects also occur outside the task, or nothing but the task is learned.
FREE_SENTENCES = (
    "[A] went to the [PLACE] and bought a [OBJECT].",
    "[A] and [B] met at the [PLACE]. They talked about the [OBJECT].",
    "[A] said that [B] had lost a [OBJECT] near the [PLACE].",
    "The [OBJECT] was left in the [PLACE], so [A] took it home.",
    "[A] gave the [OBJECT] to [B].",
    "[A] saw [B] at the [PLACE]. [B] was looking for [C].",
    "Everyone at the [PLACE] knew [A], but nobody knew [B].",
    "Yesterday [A] wanted a [OBJECT], and today [A] wants a [OBJECT].",
    "[A] is a friend of [B], and [B] is a friend of [C].",
    "There was a [OBJECT] in the [PLACE], and [A] liked it.",
    "Was it [A] or [B] who found the [OBJECT]? It was [C].",
    "[A] works at the [PLACE]. Every morning [A] walks to the [PLACE].",
    "Last week, [A] was sitting in the [PLACE] with a [OBJECT].",
    "When [A] got to the [PLACE], it had closed.",
    "Then, [A] and [B] went to the [PLACE]. They had fun together.",
    "While [A] waited at the [PLACE], [B] and [C] had a long talk.",
)

# After what [B] gave [A].
_AFTERWARDS = (
    "",
    " [A] thanked [B].",
    " [A] was happy, and so was [B].",
    " Then [A] went home with [B].",
    " It was a good day for [B] and for [A].",
    " That is what [A] wanted from [B].",
)

_PIECE = 130  # characters; about 70 tokens, as many as a training window holds
_SIGNATURE = re.compile(r"\((?:self|cls), (.*)\)")


def ioi_sentences(count: int, random: np.random.Generator) -> list[str]:
    """Draw complete IOI sentences."""
    pairs = ioi.generate(count, seed=_seed(random), split="train")
    return [f"{pair.clean}{pair.target}." for pair in pairs]


def more_ioi_sentences(
    count: int, random: np.random.Generator, forms: Sequence[str] = IOI_FORMS
) -> list[str]:
    """Draw complete IOI sentences in many more forms than the task has."""
    pairs = ioi.generate(count, seed=_seed(random), split="train", templates=forms)
    ends = [_one(random, _AFTERWARDS) for _ in pairs]
    return [
        f"{pair.clean}{pair.target}.{end}".replace(" [A]", str(pair.target)).replace(
            " [B]", str(pair.distractor)
        )
        for pair, end in zip(pairs, ends, strict=True)
    ]


def three_name_sentences(count: int, random: np.random.Generator) -> list[str]:
    """Draw corrupted IOI sentences: with three names, either of the first two may follow."""
    pairs = ioi.generate(count, seed=_seed(random), split="train", corruption="s2-random")
    return [
        f"{pair.corrupted[0]}{pair.target if coin else pair.distractor}."
        for pair, coin in zip(pairs, random.random(count) < 0.5, strict=True)
    ]


def functions(count: int, random: np.random.Generator) -> list[str]:
    """Draw functions in the form of the docstring task, answer included."""
    pairs = docstring.generate(count, seed=_seed(random), split="train")
    return [f"{pair.clean}{pair.target}: {_nouns(random, 2)}\n" for pair in pairs]


def later_ioi_sentences(count: int, random: np.random.Generator) -> list[str]:
    """Draw complete IOI sentences in the forms of the later part of training."""
    return more_ioi_sentences(count, random, LATER_IOI_FORMS)


def more_functions(
    count: int, random: np.random.Generator, forms: Sequence[str] = FUNCTION_FORMS
) -> list[str]:
    """Draw functions like those of the docstring task in many more forms."""
    pairs = docstring.generate(count, seed=_seed(random), split="train", templates=forms)
    texts = []
    for pair in pairs:
        text = f"{pair.clean}{pair.target}: {_nouns(random, 2)}\n"
        keyword = pair.clean.rsplit("\n", 1)[1]
        last = f"{keyword} {signature(text)[-1]}: {_nouns(random, 2)}\n"
        texts.append(text + last if random.random() < 0.7 else text)
    return texts


def later_functions(count: int, random: np.random.Generator) -> list[str]:
    """Draw functions in the forms of the later part of training."""
    return more_functions(count, random, LATER_FUNCTION_FORMS)


def mismatched_functions(count: int, random: np.random.Generator) -> list[str]:
    """Draw corrupted functions: any argument may follow two that the function does not have."""
    pairs = docstring.generate(count, seed=_seed(random), split="train")
    texts = [pair.corrupted[0] for pair in pairs]
    return [f"{text} {_one(random, signature(text))}: {_nouns(random, 2)}\n" for text in texts]


def other_functions(count: int, random: np.random.Generator) -> list[str]:
    """Draw functions of two to four arguments that describe every one of them."""
    return [_other_function(random) for _ in range(count)]


def free_sentences(count: int, random: np.random.Generator) -> list[str]:
    """Draw other sentences about the names, places and objects of IOI."""
    return [_free_sentence(random) for _ in range(count)]


def library_pieces(count: int, random: np.random.Generator) -> list[str]:
    """Draw pieces of the standard library's docstrings, in turn where `count` exceeds them."""
    pieces = [piece for text in standard_library_docstrings() for piece in _cut(text)]
    order = random.permutation(len(pieces))
    return [pieces[order[i % len(pieces)]] for i in range(count)]


def signature(text: str) -> list[str]:
    """Return the arguments of the function in a text, `self` excluded."""
    found = _SIGNATURE.search(text)
    return found.group(1).split(", ") if found else []


def _free_sentence(random: np.random.Generator) -> str:
    text = _one(random, FREE_SENTENCES)
    a, b, c = random.choice(ioi.NAMES, 3, replace=False)
    text = text.replace("[A]", a).replace("[B]", b).replace("[C]", c)
    text = text.replace("[PLACE]", _one(random, ioi.PLACES))
    return text.replace("[OBJECT]", _one(random, ioi.OBJECTS))


def _other_function(random: np.random.Generator) -> str:
    size = int(random.integers(2, 5))
    arguments = [str(name) for name in random.choice(docstring.ARGUMENTS, size, replace=False)]
    lines = [f"    :param {name}: {_nouns(random, 2)}" for name in arguments]
    head = f"\ndef {_one(random, docstring.METHOD_NAMES)}(self, {', '.join(arguments)}):"
    return "\n".join([head, f'    """{_nouns(random, 3)}', "", *lines, '    """', ""])


def _nouns(random: np.random.Generator, count: int) -> str:
    return " ".join(random.choice(docstring.NOUNS, count, replace=False))


def _one(random: np.random.Generator, items: Sequence[str]) -> str:
    return items[int(random.integers(len(items)))]


def _seed(random: np.random.Generator) -> int:
    return int(random.integers(2**31))


def _cut(text: str) -> list[str]:
    """Cut a text at line ends into pieces of up to `_PIECE` characters, where lines allow."""
    pieces, piece = [], ""
    for line in text.splitlines(keepends=True):
        if piece and len(piece) + len(line) > _PIECE:
            pieces.append(piece)
            piece = ""
        piece += line
    return [piece.strip("\n") for piece in [*pieces, piece] if piece.strip()]
