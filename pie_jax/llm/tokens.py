"""A guess at token counts, without the model's tokenizer."""

from __future__ import annotations

import math

from pie_jax.llm.request import Request

# Chat templates put a few tokens around each message.
_PER_MESSAGE = 4


def approximate_tokens(text: str) -> int:
    """Return about how many tokens a text has: 4 ASCII characters each, any other one each.

    English prose comes within some 20%; code, digits and rare words take more.
    """
    ascii_count = sum(character < "\x80" for character in text) if not text.isascii() else len(text)
    return math.ceil(ascii_count / 4) + len(text) - ascii_count


def prompt_tokens(request: Request) -> int:
    """Return about how many tokens a request's messages have."""
    return sum(approximate_tokens(m.content) + _PER_MESSAGE for m in request.messages)
