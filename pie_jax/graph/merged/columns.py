"""What the positions of a prompt are called, so that those of several prompts can be matched.

Shapes: T positions.
"""

from __future__ import annotations

from collections.abc import Sequence

from pie_jax.charts.text import visible
from pie_jax.errors import InputError
from pie_jax.models.tokenizer import Tokenizer

MERGES = ("role", "token", "position")


def columns(
    tokenizer: Tokenizer,
    tokens: Sequence[int],
    merge: str,
    *,
    answers: tuple[int | None, int | None] = (None, None),
    corrupted: Sequence[int] | None = None,
) -> tuple[str, ...]:
    """Return the name of each position of a prompt [T]; positions of one name are merged.

    `merge` is "position", its number; "token", its text; or "role": the first and last position,
    where a token of `answers` (target, distractor) stands (each time by itself), where the
    `corrupted` prompt of as many tokens differs, the position after one of these, and for all
    others the text. Raises `InputError` for another `merge`.
    """
    if merge not in MERGES:
        raise InputError(f"--merge `{merge}`: is not one of {', '.join(MERGES)}.")
    if merge == "position":
        return tuple(map(str, range(len(tokens))))
    texts = tuple(visible(tokenizer.token(index)) for index in tokens)
    if merge == "token":
        return texts
    roles = _roles(tokens, answers, corrupted)
    return tuple(
        role or (f"after-{roles[i - 1]}" if i > 1 and roles[i - 1] else texts[i])
        for i, role in enumerate(roles)
    )


def _roles(
    tokens: Sequence[int], answers: tuple[int | None, int | None], corrupted: Sequence[int] | None
) -> list[str]:
    """Return the roles of positions, empty for those that have none."""
    found: list[str] = []
    seen: dict[str, int] = {}
    for i, token in enumerate(tokens):
        differs = corrupted is not None and len(corrupted) == len(tokens) and corrupted[i] != token
        name = {answers[1]: "distractor", answers[0]: "target"}.get(token, "changed" * differs)
        if i in (0, len(tokens) - 1):
            name = "start" if i == 0 else "end"
        elif name:
            seen[name] = seen.get(name, 0) + 1
            name = name if seen[name] == 1 else f"{name}-{seen[name]}"
        found.append(name)
    return found
