"""More forms of IOI and of documented functions than the tasks have: none of split "unseen"."""

from __future__ import annotations

from itertools import product

_WHEN = (
    "Then,",
    "Later,",
    "Yesterday,",
    "One day,",
    "On Sunday,",
    "In the morning,",
    "In the evening,",
    "After the lunch,",
    "Last week,",
    "Some time ago,",
    "Today,",
    "In the end,",
)
_BOTH = (
    "[B] and [A] went to the [PLACE]",
    "[B] and [A] were working at the [PLACE]",
    "[B] and [A] met near the [PLACE]",
    "[B] and [A] came home from the [PLACE]",
    "[B] and [A] had to wait in front of the [PLACE]",
    "[B] and [A] talked about the [PLACE]",
    "[B] and [A] were playing behind the [PLACE]",
    "the friends [B] and [A] found the [PLACE]",
    "[B] saw [A] at the [PLACE]",
    "[B] was with [A] in the [PLACE]",
    "there were only [B] and [A] in the [PLACE]",
    "[B] and [A] had an argument at the [PLACE]",
)
_LINK = (". ", ", and ", ", so ", ". Afterwards ", ", but then ", ". After a while ", ". There ")
_GAVE = (
    "[B] gave a [OBJECT] to",
    "[B] gave the [OBJECT] to",
    "[B] handed a [OBJECT] to",
    "[B] wanted to give a [OBJECT] to",
    "[B] showed the [OBJECT] to",
    "[B] was happy to bring a [OBJECT] to",
    "[B] threw the [OBJECT] to",
    "[B] decided to sell the [OBJECT] to",
    "[B] had to send a [OBJECT] to",
    "[B] passed a [OBJECT] to",
    "[B] told a story to",
    "[B] said something to",
    "[B] wrote a letter to",
    "[B] offered the old [OBJECT] to",
    "[B] will lend a [OBJECT] to",
    "[B] sang a song to",
)
_BEFORE = ("When", "While", "After", "As", "Because", "Once", "Since")
_WHILE = tuple(text for text in _BOTH if text.startswith("["))


def _ioi() -> tuple[str, ...]:
    plain = (
        f"{when} {both}{link}{gave}"
        for when, both, link, gave in product(_WHEN, _BOTH, _LINK, _GAVE)
    )
    joined = (f"{before} {both}, {gave}" for before, both, gave in product(_BEFORE, _WHILE, _GAVE))
    late = (f"{both[0].upper()}{both[1:]} until {gave}" for both, gave in product(_BOTH, _GAVE))
    baba = (*plain, *joined, *late)
    return (*baba, *(_swapped(text) for text in baba))


def _swapped(text: str) -> str:
    """Name the indirect object first."""
    return text.replace("[A]", "[X]", 1).replace("[B]", "[A]", 1).replace("[X]", "[B]", 1)


# About 30,000; a document takes one.
IOI_FORMS = _ioi()

_STARTS = (
    "It was late, and [B] and [A] were still at the [PLACE], where",
    "Every day [B] and [A] met at the [PLACE], and every day",
    "Not far from the [PLACE] lived [B] and [A]. In the morning",
    "They called [B] and [A] to the [PLACE], because",
    "In front of the [PLACE], [B] and [A] had found something, and",
    "If [B] and [A] ever go to the [PLACE], it is because",
    "At noon [B] came to the [PLACE], and [A] came too. Then",
    "There was a letter for [B] and [A] at the [PLACE]. After that",
    "Our children [B] and [A] go to the [PLACE], and now",
    "The [OBJECT] of [B] and [A] was in the [PLACE], and so",
    "We met [B] and [A] on the way to the [PLACE] when",
    "The train took [B] and [A] to the [PLACE]. There",
    "Not only [B] but [A] was in the [PLACE] too, and",
    "With [B] and [A] in the [PLACE], it was good that",
    "The doctor knew [B] and [A] from the [PLACE]. One day",
    "Long ago, [B] and [A] lived behind the [PLACE], but",
    "Before [B] and [A] could see the [PLACE],",
    "It is said that [B] and [A] left the [PLACE] because",
)
_GIVES = (
    *_GAVE,
    "[B] was bringing the [OBJECT] to",
    "[B] carries a [OBJECT] to",
    "[B] has given everything to",
    "[B] took the old [OBJECT] to",
    "[B] gives a [OBJECT] to",
    "[B] would hand the [OBJECT] to",
    "[B] could show a [OBJECT] to",
    "[B] forgot to give the [OBJECT] to",
    "[B] talked to",
    "[B] came back to",
    "[B] reads a story to",
    "[B] likes to sing to",
    "[B] promised the [OBJECT] to",
    "[B] left a letter to",
)
# Of the later part of training.
LATER_IOI_FORMS = tuple(
    form
    for start, gave in product(_STARTS, _GIVES)
    for form in (f"{start} {gave}", _swapped(f"{start} {gave}"))
)

_HEADS = (
    "\ndef [METHOD](self, {}):\n",
    "\nasync def [METHOD](self, {}):\n",
    "\ndef [METHOD](cls, {}):\n",
    "\ndef [METHOD]_[N7](self, {}):\n",
    "\ndef _[METHOD](self, {}):\n",
    "\n    def [METHOD](self, {}):\n",
    "\nclass [N7]:\n    def [METHOD](cls, {}):\n",
    "\ndef [METHOD](self, {}) -> str:\n",
)
_OPENINGS = (
    '    """[N1] [N2] [N3]\n\n',
    '    """[N1] [N2].\n\n',
    '    """The [N1] of the [N2].\n\n',
    '    """[N1] and [N2] [N3]\n\n',
    '    """[N1], [N2], [N3]\n\n',
    '    """Return the [N1].\n\n',
)
_KEYWORDS = (":param", ":arg", "@param", "@arg", ":key", "-")
_LINES = (
    "    {} [{}]: [N4] [N5]\n",
    "    {} [{}]: the [N4]\n",
    "    {} [{}]: [N5]\n",
    "    {} [{}]: [N4] of [N5]\n",
    "    {} [{}]: [N4], [N6]\n",
)


_LATER_HEADS = (
    *_HEADS,
    "\ndef [METHOD]_one(self, {}):\n",
    "\ndef [METHOD](self, {}) -> int:\n",
    "\nclass [N7]:\n    def [METHOD](self, {}):\n",
    "\n    def [METHOD](self, {}) -> bool:\n",
    "\n# [N7]\ndef [METHOD](self, {}):\n",
)
_LATER_OPENINGS = (
    *_OPENINGS,
    '    """[N1] - [N2] [N3]\n\n',
    '    """A [N1] for the [N2].\n\n',
    '    """[N1] ([N2])\n\n',
    '    """[N1]. [N2]. [N3].\n\n',
    '    """[N1]\n\n',
)
_LATER_LINES = (
    *_LINES,
    "    {} [{}]: a [N4] or [N5]\n",
    "    {} [{}]: [N4]; [N5]\n",
    "    {} [{}]: [N4] ([N5])\n",
    "    {} [{}]: the [N4] of the [N5]\n",
    "    {} [{}]: [N4] and [N5].\n",
    "    {} [{}]: [N4].\n",
    "    {} [{}]: [N4] - [N5]\n",
)


def _function(head: str, opening: str, keyword: str, line: str) -> str:
    text = head.format("[P1], [P2], [M1], [M2], [M3], [S1]") + opening
    text += line.format(keyword, "D1")
    text += line.format(keyword, "D2").replace("[N4]", "[N6]").replace("[N5]", "[N7]")
    text += f"    {keyword}"
    if "\n    def" not in head:
        return text
    start = text.index('    """')
    return text[:start] + "\n".join(
        f"    {row}" if row else row for row in text[start:].split("\n")
    )


FUNCTION_FORMS = tuple(_function(*parts) for parts in product(_HEADS, _OPENINGS, _KEYWORDS, _LINES))
LATER_FUNCTION_FORMS = tuple(
    _function(*parts) for parts in product(_LATER_HEADS, _LATER_OPENINGS, _KEYWORDS, _LATER_LINES)
)
